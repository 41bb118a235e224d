//! The program itself, for a kernel whose structures are as its BTF says. No crate for BPF in Rust resolves
//! calls of kernel functions, and a C compiler and libbpf would be much for forty instructions.
//!
//! The kernel lets only programs call its functions whose licence it takes for compatible with its own: this
//! file is available under the MIT licence and the GPL, version 2, as well.

use crate::kernel::bpf_call::Instruction;
use crate::kernel::btf::{Btf, Field};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// At most 15 characters. The number grows with what the program decides, not with how.
pub const NAME: &str = "lxmesh_sums_1";
/// The packet mark of what was checked: rules let nothing else of a port pass. A mark does not cross from one network
/// namespace into another (`skb_scrub_packet()` in net/core/skbuff.c), so that no instance can set it. The low 16 bits are
/// tags.
pub const CHECKED: u32 = 0x4c58_0000;
pub const LICENCE: &CStr = c"Dual MIT/GPL";

/// Where the program finds what it looks at.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// `bpf_cast_to_kern_ctx()`, since Linux 6.2: from the context to its `struct sk_buff`.
    cast: u32,
    ip_summed: Bits,
    encapsulation: Bits,
    csum_start: i16,
    csum_offset: i16,
    mac_header: i16,
}

/// A field of less than a byte.
#[derive(Debug, Clone, Copy)]
struct Bits {
    byte: i16,
    shift: i32,
    mask: i32,
}

impl Places {
    /// Fails with the name of what the kernel does not have.
    pub fn of(btf: &Btf<'_>) -> Result<Places, String> {
        let cast = "bpf_cast_to_kern_ctx";
        let fields = btf.fields("sk_buff").ok_or("it has no struct sk_buff")?;
        Ok(Places {
            cast: btf
                .function(cast)
                .ok_or_else(|| format!("it has no function {cast}"))?,
            ip_summed: bits(&fields, "ip_summed")?,
            encapsulation: bits(&fields, "encapsulation")?,
            csum_start: whole(&fields, "csum_start")?,
            csum_offset: whole(&fields, "csum_offset")?,
            mac_header: whole(&fields, "mac_header")?,
        })
    }
}

fn field(fields: &BTreeMap<&str, Field>, name: &str) -> Result<Field, String> {
    let field = fields.get(name).copied();
    field.ok_or_else(|| format!("its struct sk_buff has no field {name}"))
}

fn unlike(name: &str) -> String {
    format!("its struct sk_buff has {name} in another form")
}

fn whole(fields: &BTreeMap<&str, Field>, name: &str) -> Result<i16, String> {
    match field(fields, name)? {
        Field { bit, width: 0 } if bit % 8 == 0 => i16::try_from(bit / 8).map_err(|_| unlike(name)),
        _ => Err(unlike(name)),
    }
}

fn bits(fields: &BTreeMap<&str, Field>, name: &str) -> Result<Bits, String> {
    let Field { bit, width } = field(fields, name)?;
    if !(1..8).contains(&width) || bit % 8 + width > 8 {
        return Err(unlike(name));
    }
    Ok(Bits {
        byte: i16::try_from(bit / 8).map_err(|_| unlike(name))?,
        shift: (bit % 8).cast_signed(),
        mask: (1 << width) - 1,
    })
}

/// `CHECKSUM_PARTIAL`, include/linux/skbuff.h.
const PARTIAL: i32 = 3;
/// `TCX_NEXT` and `TCX_DROP`: the other programs and LXD's limits come after us.
const NEXT: i32 = -1;
const DROP: i32 = 2;

/// In `struct __sk_buff`.
const MARK: i16 = 8;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

// In the packet, from its MAC header on.
const ETHERTYPE: i16 = 12;
const VERSION_AND_LENGTH: i16 = 14;
const FRAGMENT: i16 = 20;
const PROTOCOL4: i16 = 23;
const PROTOCOL6: i16 = 20;
const TRANSPORT4: i32 = 34;
const TRANSPORT6: i32 = 54;

const UDP: i32 = 17;
/// Protocol, and where in its header the checksum is.
const CHECKSUMS: [(i32, i32); 3] = [(6, 16), (UDP, 6), (132, 8)];

/// Registers. R0 has results; calls lose R1 to R5.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R6: u8 = 6;
const R10: u8 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Four,
    Six,
    Found,
    Inside,
    Pass,
    Drop,
}

/// A program on its way: jumps name labels, which are places that may come later.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    labels: BTreeMap<Label, usize>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn add(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) {
        let [offset0, offset1] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        self.instructions
            .push([code, from << 4 | to, offset0, offset1, a, b, c, d]);
    }

    fn label(&mut self, label: Label) {
        self.labels.insert(label, self.instructions.len());
    }

    fn jump(&mut self, code: u8, to: u8, from: u8, value: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.add(code, to, from, 0, value);
    }

    fn go(&mut self, label: Label) {
        self.jump(0x05, 0, 0, 0, label);
    }

    fn if_equal(&mut self, register: u8, value: i32, label: Label) {
        self.jump(0x15, register, 0, value, label);
    }

    fn unless_equal(&mut self, register: u8, value: i32, label: Label) {
        self.jump(0x55, register, 0, value, label);
    }

    /// Unsigned, of 64 bits.
    fn if_greater(&mut self, register: u8, than: u8, label: Label) {
        self.jump(0x2d, register, than, 0, label);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.add(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, register: u8, value: i32) {
        self.add(0xb7, register, 0, 0, value);
    }

    fn plus(&mut self, register: u8, value: i32) {
        self.add(0x07, register, 0, 0, value);
    }

    fn and(&mut self, register: u8, value: i32) {
        self.add(0x57, register, 0, 0, value);
    }

    fn load8(&mut self, to: u8, from: u8, offset: i16) {
        self.add(0x71, to, from, offset, 0);
    }

    fn load16(&mut self, to: u8, from: u8, offset: i16) {
        self.add(0x69, to, from, offset, 0);
    }

    fn load32(&mut self, to: u8, from: u8, offset: i16) {
        self.add(0x61, to, from, offset, 0);
    }

    fn load_bits(&mut self, to: u8, from: u8, Bits { byte, shift, mask }: Bits) {
        self.load8(to, from, byte);
        self.add(0x77, to, 0, 0, shift);
        self.and(to, mask);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let target = self.labels[&label];
            let skip = i16::try_from(target - at - 1).expect("jumps go forward, and not far");
            self.instructions[at][2..4].copy_from_slice(&skip.to_ne_bytes());
        }
        self.instructions
    }
}

/// The program. A packet passes if
///
/// - its checksum is not deferred; or
/// - it is IPv4 without options and no fragment, or IPv6 without extension headers, and what is deferred is
///   the checksum of its own TCP, UDP or SCTP header; or
/// - it is such a packet of UDP, a kernel has put another one into it (`encapsulation`), and what is deferred begins
///   behind the UDP header, where no filter looks.
///
/// What passes gets the mark [`CHECKED`]. All else is dropped, and counted in `dropped`.
pub fn assemble(places: &Places, dropped: BorrowedFd<'_>) -> Vec<Instruction> {
    const SKB: u8 = R0;
    const START: u8 = R2;
    const OFFSET: u8 = 3;
    const PACKET: u8 = 4;
    const END: u8 = 5;
    const PROTOCOL: u8 = 7;
    const TRANSPORT: u8 = 8;
    let mut a = Assembler::default();
    a.copy(R6, R1);
    // A call of a kernel function (BPF_PSEUDO_KFUNC_CALL), by its number.
    a.add(0x85, 0, 2, 0, places.cast.cast_signed());
    a.load_bits(R1, SKB, places.ip_summed);
    a.unless_equal(R1, PARTIAL, Label::Pass);

    // Where the sum begins, from the MAC header on; the header's place is counted from the buffer.
    a.load16(START, SKB, places.csum_start);
    a.load16(R1, SKB, places.mac_header);
    a.add(0x1f, START, R1, 0, 0);
    a.and(START, 0xffff);
    a.load16(OFFSET, SKB, places.csum_offset);
    a.load32(PACKET, R6, DATA);
    a.load32(END, R6, DATA_END);
    a.copy(R1, PACKET);
    a.plus(R1, TRANSPORT4);
    a.if_greater(R1, END, Label::Drop);
    a.load16(R1, PACKET, ETHERTYPE);
    a.if_equal(R1, libc::ETH_P_IP.cast_be(), Label::Four);
    a.if_equal(R1, libc::ETH_P_IPV6.cast_be(), Label::Six);
    a.go(Label::Drop);

    a.label(Label::Four);
    a.load8(R1, PACKET, VERSION_AND_LENGTH);
    a.unless_equal(R1, 0x45, Label::Drop);
    // More fragments, and the offset of this one.
    a.load16(R1, PACKET, FRAGMENT);
    a.and(R1, 0x3fff_i32.cast_be());
    a.unless_equal(R1, 0, Label::Drop);
    a.load8(PROTOCOL, PACKET, PROTOCOL4);
    a.set(TRANSPORT, TRANSPORT4);
    a.go(Label::Found);
    a.label(Label::Six);
    a.load8(PROTOCOL, PACKET, PROTOCOL6);
    a.set(TRANSPORT, TRANSPORT6);

    a.label(Label::Found);
    // (jump if not equal, two registers)
    a.jump(0x5d, START, TRANSPORT, 0, Label::Inside);
    for (protocol, offset) in CHECKSUMS {
        // Skips the next two.
        a.add(0x55, PROTOCOL, 0, 2, protocol);
        a.if_equal(OFFSET, offset, Label::Pass);
        a.go(Label::Drop);
    }
    a.label(Label::Inside);
    a.load_bits(R1, SKB, places.encapsulation);
    a.if_equal(R1, 0, Label::Drop);
    a.unless_equal(PROTOCOL, UDP, Label::Drop);
    a.plus(TRANSPORT, 8);
    a.if_greater(TRANSPORT, START, Label::Drop);

    a.label(Label::Pass);
    a.set(R1, CHECKED.cast_signed());
    a.add(0x63, R6, R1, MARK, 0);
    a.set(R0, NEXT);
    a.add(0x95, 0, 0, 0, 0);

    a.label(Label::Drop);
    // The key, 0, on the stack; bpf_map_lookup_elem(); an atomic addition of one.
    a.add(0x62, R10, 0, -4, 0);
    a.copy(R2, R10);
    a.plus(R2, -4);
    a.add(0x18, R1, 1, 0, dropped.as_raw_fd());
    a.add(0, 0, 0, 0, 0);
    a.add(0x85, 0, 0, 0, 1);
    a.add(0x15, R0, 0, 2, 0);
    a.set(R1, 1);
    a.add(0xdb, R0, R1, 0, 0);
    a.set(R0, DROP);
    a.add(0x95, 0, 0, 0, 0);
    a.finish()
}

/// As a 16-bit load of a field in network byte order shows it.
trait NetworkOrder {
    fn cast_be(self) -> i32;
}

impl NetworkOrder for i32 {
    fn cast_be(self) -> i32 {
        u16::try_from(self)
            .expect("a field of two bytes")
            .to_be()
            .into()
    }
}
