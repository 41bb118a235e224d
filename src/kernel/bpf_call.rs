//! The system call `bpf(2)`, as far as it is needed here: programs, maps, pins in a BPF file system, and
//! programs attached to a device's ingress by tcx (Linux 6.6). Structures: `union bpf_attr` in
//! include/uapi/linux/bpf.h. What a call leaves out is zero, which means its default.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::KernelError;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_PROG_QUERY: libc::c_int = 16;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_RDONLY: u32 = 1 << 3;
/// `BPF_MPROG_MAX` in include/linux/bpf_mprog.h: more cannot be attached to one hook.
const MAX_ATTACHED: usize = 64;

/// One instruction, as `struct bpf_insn` has it.
pub(super) type Instruction = [u8; 8];

/// The bytes of a `union bpf_attr`, written field by field.
#[derive(Default)]
struct Attr(Vec<u8>);

impl Attr {
    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        debug_assert_eq!(self.0.len() % 8, 0, "the kernel aligns these");
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn fd(self, fd: BorrowedFd<'_>) -> Self {
        self.u32(fd.as_raw_fd().cast_unsigned())
    }

    /// The address of something that outlives the call.
    fn address<T>(self, of: *const T) -> Self {
        self.u64(of.expose_provenance() as u64)
    }

    /// `char name[BPF_OBJ_NAME_LEN]`: letters, digits, `_` and `.`.
    fn name(mut self, name: &str) -> Self {
        let mut bytes = [0; 16];
        for (to, from) in bytes[..15].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.0.extend(bytes);
        self
    }
}

/// What is known of a loaded program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProgramInfo {
    pub id: u32,
    /// Digest of its instructions, without the maps that they name.
    pub tag: [u8; 8],
    pub name: String,
    pub is_classifier: bool,
}

/// Makes the call; its result, which is a file descriptor for some commands.
///
/// # Safety
///
/// Every address in `attr` must be that of memory as large as the command says, and writable where the
/// kernel answers there.
unsafe fn call(
    command: libc::c_int,
    attr: &mut Attr,
    attempt: &dyn fmt::Display,
) -> Result<libc::c_int, KernelError> {
    let bytes = &mut attr.0;
    // SAFETY: `attr` has as many bytes as are announced; of what it points to the caller says so.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_mut_ptr(), bytes.len()) };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error();
        return Err(KernelError::new(attempt, errno, None));
    }
    Ok(result as libc::c_int)
}

/// # Safety
///
/// As for [`call`]; the command must be one that returns a new file descriptor.
unsafe fn call_for_fd(
    command: libc::c_int,
    attr: &mut Attr,
    attempt: &dyn fmt::Display,
) -> Result<OwnedFd, KernelError> {
    // SAFETY: as the caller says.
    let fd = unsafe { call(command, attr, attempt) }?;
    // SAFETY: the kernel has just opened it for us, with FD_CLOEXEC.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An array of one 64-bit number.
pub(super) fn create_counter(name: &str) -> Result<OwnedFd, KernelError> {
    let mut attr = Attr::default()
        .u32(BPF_MAP_TYPE_ARRAY)
        .u32(4)
        .u32(8)
        .u32(1)
        // map_flags, inner_map_fd, numa_node
        .u32(0)
        .u32(0)
        .u32(0)
        .name(name);
    // SAFETY: there is no address in it.
    unsafe { call_for_fd(BPF_MAP_CREATE, &mut attr, &"creating a BPF map") }
}

/// The number in the array of [`create_counter`].
pub(super) fn read_counter(map: BorrowedFd<'_>) -> Result<u64, KernelError> {
    let (key, mut value) = (0u32, 0u64);
    let mut attr = Attr::default()
        .fd(map)
        .u32(0)
        .address(&raw const key)
        .address(&raw mut value)
        .u64(0);
    // SAFETY: the map's keys have four bytes and its values eight, which both variables have.
    unsafe { call(BPF_MAP_LOOKUP_ELEM, &mut attr, &"reading a BPF map") }?;
    Ok(value)
}

/// Loads a classifier. `licence` decides which of its functions the kernel lets it call. The error has
/// what the verifier said last.
pub(super) fn load_classifier(
    name: &str,
    instructions: &[Instruction],
    licence: &std::ffi::CStr,
) -> Result<OwnedFd, KernelError> {
    let load = |log: &mut [u8]| {
        let level = u32::from(!log.is_empty());
        let mut attr = Attr::default()
            .u32(BPF_PROG_TYPE_SCHED_CLS)
            .u32(u32::try_from(instructions.len()).expect("a program is short"))
            .address(instructions.as_ptr())
            .address(licence.as_ptr())
            .u32(level)
            .u32(u32::try_from(log.len()).expect("a log is short"))
            .address(if log.is_empty() {
                std::ptr::null()
            } else {
                log.as_mut_ptr().cast_const()
            })
            // kern_version, prog_flags
            .u32(0)
            .u32(0)
            .name(name);
        // SAFETY: instructions and log are as long as said, and the licence ends with a zero.
        unsafe { call_for_fd(BPF_PROG_LOAD, &mut attr, &"loading a BPF program") }
    };
    load(&mut []).or_else(|error| {
        let mut log = vec![0; 64 << 10];
        let again = load(&mut log);
        let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
        let said = String::from_utf8_lossy(said);
        // The last line has the verifier's statistics.
        let last = said
            .lines()
            .rev()
            .find(|line| !line.starts_with("processed"));
        again
            .map_err(|_| KernelError::new(error.attempt(), error.errno(), last.map(str::to_string)))
    })
}

fn path_of(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("our paths have no zero byte")
}

/// Pins a program or a map at a path of a BPF file system. It stays there after its last user.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> Result<(), KernelError> {
    let text = path_of(path);
    let mut attr = Attr::default().address(text.as_ptr()).fd(object).u32(0);
    // SAFETY: the path ends with a zero.
    unsafe {
        call(
            BPF_OBJ_PIN,
            &mut attr,
            &format_args!("pinning {}", path.display()),
        )
    }?;
    Ok(())
}

/// What is pinned at a path, for reading. ENOENT if nothing is; EACCES without permission.
pub(super) fn pinned(path: &Path) -> Result<OwnedFd, KernelError> {
    let text = path_of(path);
    let mut attr = Attr::default()
        .address(text.as_ptr())
        .u32(0)
        .u32(BPF_F_RDONLY);
    let attempt = format_args!("opening {}", path.display());
    // SAFETY: the path ends with a zero.
    unsafe { call_for_fd(BPF_OBJ_GET, &mut attr, &attempt) }
}

/// What the kernel knows of a program.
pub(super) fn info(program: BorrowedFd<'_>) -> Result<ProgramInfo, KernelError> {
    // `struct bpf_prog_info` up to and with its name; the kernel fills what it is given room for.
    let mut info = [0u8; 80];
    let mut attr = Attr::default()
        .fd(program)
        .u32(info.len() as u32)
        .address(info.as_mut_ptr().cast_const());
    // SAFETY: `info` has as many bytes as are announced.
    unsafe {
        call(
            BPF_OBJ_GET_INFO_BY_FD,
            &mut attr,
            &"asking for a BPF program",
        )
    }?;
    let u32_at = |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes"));
    let name = info[64..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    Ok(ProgramInfo {
        id: u32_at(4),
        tag: info[8..16].try_into().expect("eight bytes"),
        name: String::from_utf8_lossy(name).into_owned(),
        is_classifier: u32_at(0) == BPF_PROG_TYPE_SCHED_CLS,
    })
}

/// Attaches a program to a device's ingress, before all that are attached there. EEXIST if it is
/// attached already; EINVAL before Linux 6.6.
pub(super) fn attach_first(index: u32, program: BorrowedFd<'_>) -> Result<(), KernelError> {
    let mut attr = Attr::default()
        .u32(index)
        .fd(program)
        .u32(BPF_TCX_INGRESS)
        .u32(BPF_F_BEFORE);
    let attempt = format_args!("attaching a BPF program to link {index}");
    // SAFETY: there is no address in it.
    unsafe { call(BPF_PROG_ATTACH, &mut attr, &attempt) }?;
    Ok(())
}

/// Takes a program off a device's ingress. ENOENT if it is not there.
pub(super) fn detach(index: u32, program: BorrowedFd<'_>) -> Result<(), KernelError> {
    let mut attr = Attr::default()
        .u32(index)
        .fd(program)
        .u32(BPF_TCX_INGRESS)
        .u32(0);
    let attempt = format_args!("detaching a BPF program from link {index}");
    // SAFETY: there is no address in it.
    unsafe { call(BPF_PROG_DETACH, &mut attr, &attempt) }?;
    Ok(())
}

/// The identifiers of the programs at a device's ingress, in the order in which they run. Needs
/// CAP_NET_ADMIN. ENODEV if there is no such device; EINVAL before Linux 6.6.
pub(super) fn attached(index: u32) -> Result<Vec<u32>, KernelError> {
    let mut ids = vec![0u32; MAX_ATTACHED];
    let mut attr = Attr::default()
        .u32(index)
        .u32(BPF_TCX_INGRESS)
        // query_flags, attach_flags
        .u32(0)
        .u32(0)
        .address(ids.as_mut_ptr().cast_const())
        .u32(MAX_ATTACHED as u32)
        .u32(0)
        // prog_attach_flags, link_ids, link_attach_flags, revision
        .u64(0)
        .u64(0)
        .u64(0)
        .u64(0);
    let attempt = format_args!("asking for the BPF programs of link {index}");
    // SAFETY: `ids` has as many elements as are announced. The kernel writes the count into `attr`.
    unsafe { call(BPF_PROG_QUERY, &mut attr, &attempt) }?;
    let count = u32::from_ne_bytes(attr.0[24..28].try_into().expect("four bytes"));
    ids.truncate(count as usize);
    Ok(ids)
}
