//! Where things are in the running kernel, from its own description of its types, BTF
//! (Documentation/bpf/btf.rst): the number of a function and the places of a structure's fields. Knows
//! no field by name. Little-endian, as all hosts are that LXMesh is built for.

use std::collections::BTreeMap;
use std::path::Path;

/// Description of the kernel itself. Needs CONFIG_DEBUG_INFO_BTF, which distributions' kernels have.
pub(super) const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;
/// Structures within structures within structures: `struct sk_buff` has four.
const MAX_DEPTH: usize = 8;

/// A place in a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// From the beginning of the structure, bits.
    pub bit: u32,
    /// Bits, for a bit field; 0 for any other.
    pub width: u32,
}

/// A BTF blob, with the places of its types.
pub(super) struct Btf<'a> {
    bytes: &'a [u8],
    strings: usize,
    /// Where each type begins; numbers begin with 1.
    types: Vec<usize>,
}

/// The kernel's own description.
pub(super) fn read() -> Result<Vec<u8>, String> {
    std::fs::read(Path::new(PATH)).map_err(|error| {
        format!("{PATH}: {error}; the kernel needs CONFIG_DEBUG_INFO_BTF, which distributions' kernels have")
    })
}

impl<'a> Btf<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Btf<'a>> {
        let word = |at: usize| read_u32(bytes, at).map(|value| value as usize);
        if u16::from_le_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(4)?;
        let (start, length) = (header.checked_add(word(8)?)?, word(12)?);
        let strings = header.checked_add(word(16)?)?;
        let end = start.checked_add(length)?;
        let mut types = Vec::new();
        let mut at = start;
        while at < end {
            types.push(at);
            at = at
                .checked_add(12)?
                .checked_add(rest_of(read_u32(bytes, at + 4)?)?)?;
        }
        (at == end && end <= bytes.len()).then_some(Btf {
            bytes,
            strings,
            types,
        })
    }

    /// The number of the function of this name.
    pub fn function(&self, name: &str) -> Option<u32> {
        self.find(KIND_FUNC, name)
    }

    /// Where in the structure of this name the named fields are, those of structures and unions without
    /// a name inside of it included.
    pub fn fields(&self, structure: &str) -> Option<BTreeMap<&'a str, Field>> {
        let mut found = BTreeMap::new();
        self.collect(self.find(KIND_STRUCT, structure)?, 0, 0, &mut found)?;
        Some(found)
    }

    fn find(&self, kind: u32, name: &str) -> Option<u32> {
        let index = self.types.iter().position(|at| {
            self.info(*at).is_some_and(|info| kind_of(info) == kind) && self.name(*at) == Some(name)
        })?;
        u32::try_from(index + 1).ok()
    }

    fn collect(
        &self,
        number: u32,
        base: u32,
        depth: usize,
        found: &mut BTreeMap<&'a str, Field>,
    ) -> Option<()> {
        let at = *self.types.get((number as usize).checked_sub(1)?)?;
        let info = self.info(at)?;
        if !matches!(kind_of(info), KIND_STRUCT | KIND_UNION) || depth > MAX_DEPTH {
            return Some(());
        }
        let has_widths = info >> 31 == 1;
        for member in 0..(info & 0xffff) as usize {
            let at = at + 12 + member * 12;
            let place = read_u32(self.bytes, at + 8)?;
            let (bit, width) = match has_widths {
                true => (place & 0xff_ffff, place >> 24),
                false => (place, 0),
            };
            let bit = base.checked_add(bit)?;
            match self.name(at)? {
                "" => self.collect(read_u32(self.bytes, at + 4)?, bit, depth + 1, found)?,
                name => {
                    found.entry(name).or_insert(Field { bit, width });
                }
            }
        }
        Some(())
    }

    fn info(&self, at: usize) -> Option<u32> {
        read_u32(self.bytes, at + 4)
    }

    /// The name that the type or member at this place begins with.
    fn name(&self, at: usize) -> Option<&'a str> {
        let start = self
            .strings
            .checked_add(read_u32(self.bytes, at)? as usize)?;
        let bytes = self.bytes.get(start..)?.split(|byte| *byte == 0).next()?;
        str::from_utf8(bytes).ok()
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Bytes that follow the first twelve of a type; `None` for a kind that nobody knew when this was
/// written.
fn rest_of(info: u32) -> Option<usize> {
    let count = (info & 0xffff) as usize;
    Some(match kind_of(info) {
        // pointer, forward declaration, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // integer, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // structure, union, section, 64-bit enumeration
        4 | 5 | 15 | 19 => 12 * count,
        // enumeration, parameters of a function
        6 | 13 => 8 * count,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob with these types and strings.
    fn blob(types: &[u32], strings: &str) -> Vec<u8> {
        let mut all = vec![0x9f, 0xeb, 1, 0];
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, strings.len() as u32] {
            all.extend(u32::to_le_bytes(word));
        }
        all.extend(types.iter().flat_map(|word| word.to_le_bytes()));
        all.extend(strings.bytes());
        all
    }

    const STRUCT: u32 = KIND_STRUCT << 24;
    const UNION: u32 = KIND_UNION << 24;
    const WIDTHS: u32 = 1 << 31;

    /// An integer; `struct s { int a; union { int b; struct { int c:2; }; }; }`; function `f`.
    fn example() -> Vec<u8> {
        let strings = "\0s\0a\0b\0c\0f\0int\0";
        let types = [
            [11, 1 << 24, 4, 32].as_slice(),
            &[0, STRUCT | WIDTHS | 1, 4, 7, 1, 2 << 24 | 6],
            &[0, UNION | 2, 4, 5, 1, 0, 0, 2, 0],
            &[1, STRUCT | 2, 8, 3, 1, 0, 0, 3, 32],
            &[9, KIND_FUNC << 24, 0],
        ];
        blob(&types.concat(), strings)
    }

    #[test]
    fn fields_of_nameless_members_are_fields_of_the_whole() {
        let bytes = example();
        let btf = Btf::parse(&bytes).unwrap();
        let fields = btf.fields("s").unwrap();
        let at = |bit, width| Field { bit, width };
        let expected = [("a", at(0, 0)), ("b", at(32, 0)), ("c", at(38, 2))];
        assert_eq!(fields, expected.into());
        assert_eq!(btf.function("f"), Some(5));
        assert_eq!((btf.function("s"), btf.fields("f")), (None, None));
    }

    #[test]
    fn a_cut_or_strange_blob_is_none() {
        let bytes = example();
        let strings = bytes.len() - 18;
        for end in 0..strings {
            assert!(Btf::parse(&bytes[..end]).is_none(), "cut at {end}");
        }
        assert!(Btf::parse(&blob(&[0, 31 << 24, 0], "\0")).is_none());
        // A structure that is inside of itself ends, too.
        let bytes = blob(&[1, STRUCT | 1, 4, 0, 1, 0], "\0s\0");
        assert!(Btf::parse(&bytes).unwrap().fields("s").is_some());
    }

    #[test]
    fn the_running_kernel_is_understood() {
        let bytes = read().unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        let fields = btf.fields("sk_buff").unwrap();
        assert_eq!(fields["ip_summed"].width, 2);
        assert!(fields.contains_key("csum_start") && fields.contains_key("mac_header"));
    }
}
