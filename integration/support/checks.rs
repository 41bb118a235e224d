//! The check of deferred checksums, for tests: loaded in a place of the test's own, and looked at by
//! the kernel's own question, with nothing of the agent's code.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use lxmesh::kernel::checksums;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

/// Gives this thread, and what it starts, file systems of its own, in which the check is loaded anew, as root
/// does before the agent starts.
pub fn load_privately() {
    // SAFETY: CLONE_NEWNS changes what this thread sees mounted and, by CLONE_FS, that it shares no
    // working directory any more; nobody relies on either.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.expect("tests run as root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).expect("mounts can be made private");
    let at = Path::new(checksums::DIRECTORY);
    fs::create_dir_all(at).expect("/run can be written");
    // Whatever a real agent of this machine has there is hidden.
    rustix::mount::mount(c"none", at, c"tmpfs", MountFlags::empty(), None).expect("tmpfs is there");
    checksums::prepare(at).expect("this kernel can check deferred checksums");
}

/// Lets the agent's user use what is loaded, as lxmesh-prepare.service does.
pub fn share_with(user: u32) {
    for entry in fs::read_dir(checksums::DIRECTORY).expect("it is mounted") {
        let path = entry.expect("it can be listed").path();
        if !path.to_string_lossy().contains('.') {
            std::os::unix::fs::chown(path, Some(user), None).expect("it is root's");
        }
    }
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_AFTER: u32 = 1 << 4;
/// As many as one device can have.
pub const MOST: usize = 63;

fn bpf(command: libc::c_int, attr: &mut [u32; 16]) -> libc::c_long {
    // SAFETY: `attr` is as large as announced; whatever it points to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    assert!(
        result >= 0,
        "bpf({command}): {}",
        io::Error::last_os_error()
    );
    result
}

/// How many programs are at the ingress of a device.
pub fn attached(index: u32) -> u32 {
    // target_ifindex, attach_type, flags, flags, prog_ids (2), count
    let mut attr = [0u32; 16];
    (attr[0], attr[1]) = (index, BPF_TCX_INGRESS);
    bpf(BPF_PROG_QUERY, &mut attr);
    attr[6]
}

/// Takes the first program off the ingress of a device, whosever it is.
pub fn detach_first(index: u32) {
    detach(index, BPF_F_BEFORE);
}

/// The same of the last one.
pub fn detach_last(index: u32) {
    detach(index, BPF_F_AFTER);
}

fn detach(index: u32, which: u32) {
    let mut attr = [0u32; 16];
    (attr[0], attr[2], attr[3]) = (index, BPF_TCX_INGRESS, which);
    bpf(BPF_PROG_DETACH, &mut attr);
}

/// A program of somebody else's, which lets everything pass and ends the chain (TCX_PASS).
pub struct Stranger(OwnedFd);

impl Stranger {
    pub fn load() -> Self {
        // r0 = 0; exit
        let instructions: [u64; 2] = [0xb7, 0x95];
        let words = |address: u64| [address as u32, (address >> 32) as u32];
        let mut attr = [0u32; 16];
        (attr[0], attr[1]) = (BPF_PROG_TYPE_SCHED_CLS, 2);
        attr[2..4].copy_from_slice(&words(instructions.as_ptr().expose_provenance() as u64));
        attr[4..6].copy_from_slice(&words(c"".as_ptr().expose_provenance() as u64));
        let fd = bpf(BPF_PROG_LOAD, &mut attr);
        // SAFETY: the kernel has just opened it for us.
        Stranger(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }

    /// Before all others of a device, or behind them.
    pub fn attach(&self, index: u32, first: bool) {
        let mut attr = [0u32; 16];
        attr[0] = index;
        attr[1] = self.0.as_raw_fd().cast_unsigned();
        attr[2] = BPF_TCX_INGRESS;
        attr[3] = if first { BPF_F_BEFORE } else { 0 };
        bpf(BPF_PROG_ATTACH, &mut attr);
    }
}
