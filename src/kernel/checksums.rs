//! The check of deferred checksums on ports: whoever sends may leave a packet's checksum to be filled in
//! (`CHECKSUM_PARTIAL`), and say at which offset. Filters and connection tracking see the packet before, so
//! that an offset of the sender's choice would alter what they have approved: addresses, ports. A program on
//! the port's ingress (`program.rs`) lets pass only what points at the checksum of its own TCP, UDP or SCTP
//! header.
//!
//! Root loads the program and pins it (`prepare`); from then on whoever may read the pin attaches it,
//! without a right to load programs. What is attached stays without the one who did it, like a filter.

mod program;

use super::KernelError;
use super::bpf_call::{self, ProgramInfo};
use super::btf::{self, Btf};
use rustix::io::Errno;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A BPF file system of our own: systemd mounts /sys/fs/bpf for root alone.
pub const DIRECTORY: &str = "/run/lxmesh-bpf";
/// The agent's group, as the packages make it. Where there is none, the agent is root.
const GROUP: &str = "lxmesh";
/// The program's pin; the kernel keeps names with dots to itself. Programs of earlier versions are beside it, as `checksums-ID`.
const PROGRAM: &str = "checksums";
/// The number of packets that the program has dropped.
const DROPPED: &str = "checksums-dropped";

/// The pinned program, and how to use it.
#[derive(Debug)]
pub struct Checks {
    program: OwnedFd,
    id: u32,
    dropped: OwnedFd,
    /// Programs of earlier versions, with their identifiers, as ports may still have them.
    earlier: Vec<(OwnedFd, u32)>,
}

/// What a device's ingress has of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// `None`: not there. Else how many programs come before it, and may let pass what it would not see.
    pub behind: Option<usize>,
    /// An earlier version is there.
    pub earlier: bool,
}

impl Checks {
    /// What [`prepare`] has pinned, or `None` if it has not.
    pub fn open(directory: &Path) -> Result<Option<Checks>, KernelError> {
        let pin = |name: &str| match bpf_call::pinned(&directory.join(name)) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            other => other.map(Some),
        };
        let (Some(program), Some(dropped)) = (pin(PROGRAM)?, pin(DROPPED)?) else {
            return Ok(None);
        };
        let info = bpf_call::info(program.as_fd())?;
        if !is_ours(&info) {
            return Err(KernelError::ours(
                format_args!("using {}", directory.join(PROGRAM).display()),
                libc::EINVAL,
                format!(
                    "it is program {:?}, and this version needs {:?}",
                    info.name,
                    program::NAME
                ),
            ));
        }
        let mut earlier = Vec::new();
        for path in earlier_pins(directory) {
            let program = bpf_call::pinned(&path)?;
            let id = bpf_call::info(program.as_fd())?.id;
            earlier.push((program, id));
        }
        Ok(Some(Checks {
            program,
            id: info.id,
            dropped,
            earlier,
        }))
    }

    /// What a device has. ENODEV if it is not there.
    pub fn attached(&self, index: u32) -> Result<Attached, KernelError> {
        let ids = bpf_call::attached(index)?;
        Ok(Attached {
            behind: ids.iter().position(|id| *id == self.id),
            earlier: self.earlier.iter().any(|(_, id)| ids.contains(id)),
        })
    }

    /// Makes it the first program of a device, and takes earlier versions off after that. A device that
    /// has it behind others is without it for a moment.
    pub fn attach(&self, index: u32) -> Result<(), KernelError> {
        let now = self.attached(index)?;
        if now.behind.is_some_and(|before| before > 0) {
            bpf_call::detach(index, self.program.as_fd())?;
        }
        if now.behind != Some(0) {
            bpf_call::attach_first(index, self.program.as_fd())?;
        }
        self.detach_earlier(index)
    }

    /// Takes it off a device, earlier versions too.
    pub fn detach(&self, index: u32) -> Result<(), KernelError> {
        gone_is_done(bpf_call::detach(index, self.program.as_fd()))?;
        self.detach_earlier(index)
    }

    fn detach_earlier(&self, index: u32) -> Result<(), KernelError> {
        let ids = bpf_call::attached(index)?;
        let mut there = self.earlier.iter().filter(|(_, id)| ids.contains(id));
        there.try_for_each(|(program, _)| gone_is_done(bpf_call::detach(index, program.as_fd())))
    }

    /// Packets that were dropped since it was loaded.
    pub fn dropped(&self) -> Result<u64, KernelError> {
        bpf_call::read_counter(self.dropped.as_fd())
    }
}

fn gone_is_done(result: Result<(), KernelError>) -> Result<(), KernelError> {
    match result {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn is_ours(info: &ProgramInfo) -> bool {
    info.is_classifier && info.name == program::NAME
}

/// Pins of programs that were replaced.
fn earlier_pins(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let pins = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(PROGRAM)?.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    pins.collect()
}

/// What [`prepare`] has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The program is there, the same as this version would load.
    Already,
    Loaded,
}

/// Why the program cannot be had on this host.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(
        "this kernel cannot check deferred checksums, and no instance is connected without that check.\n  needed: Linux 6.6 or newer with BPF and its type information (CONFIG_BPF_SYSCALL, CONFIG_DEBUG_INFO_BTF), as distributions build it.\n  {0}"
    )]
    Kernel(String),
    #[error(transparent)]
    Call(#[from] KernelError),
    #[error("{}: {why}", .path.display())]
    Path { path: PathBuf, why: String },
}

/// Loads the program and pins it for the agent's group to read. Needs root: CAP_BPF, CAP_PERFMON and
/// CAP_NET_ADMIN to load, CAP_SYS_ADMIN to mount, CAP_CHOWN. Doing it twice changes nothing, so that what is
/// attached stays the pinned one; a program that differs is put beside the new one.
pub fn prepare(directory: &Path) -> Result<Prepared, PrepareError> {
    // lo is in every namespace. Before Linux 6.6 the question is not understood.
    bpf_call::attached(1).map_err(|error| PrepareError::Kernel(error.to_string()))?;
    mount(directory)?;
    let (loaded, dropped) = load()?;
    let path = directory.join(PROGRAM);
    let same = |before: &ProgramInfo, now: &ProgramInfo| is_ours(before) && before.tag == now.tag;
    let before = match bpf_call::pinned(&path) {
        Err(error) if error.errno() == Some(libc::ENOENT) => None,
        pinned => Some(bpf_call::info(pinned?.as_fd())?),
    };
    let counted = directory.join(DROPPED);
    if let Some(before) = &before {
        if same(before, &bpf_call::info(loaded.as_fd())?) && counted.exists() {
            share(&path)?;
            share(&counted)?;
            return Ok(Prepared::Already);
        }
        let aside = directory.join(format!("{PROGRAM}-{}", before.id));
        fs::rename(&path, &aside).map_err(|error| path_error(&path, &error))?;
    }
    if counted.exists() {
        fs::remove_file(&counted).map_err(|error| path_error(&counted, &error))?;
    }
    bpf_call::pin(dropped.as_fd(), &counted)?;
    share(&counted)?;
    // The program last: with it there, all is.
    bpf_call::pin(loaded.as_fd(), &path)?;
    share(&path)?;
    Ok(Prepared::Loaded)
}

fn load() -> Result<(OwnedFd, OwnedFd), PrepareError> {
    let bytes = btf::read().map_err(PrepareError::Kernel)?;
    let unlike = || PrepareError::Kernel(format!("{} is not understood", btf::PATH));
    let btf = Btf::parse(&bytes).ok_or_else(unlike)?;
    let places = program::Places::of(&btf).map_err(PrepareError::Kernel)?;
    let dropped = bpf_call::create_counter(program::NAME)?;
    let instructions = program::assemble(&places, dropped.as_fd());
    let loaded = bpf_call::load_classifier(program::NAME, &instructions, program::LICENCE)
        .map_err(|error| PrepareError::Kernel(error.to_string()))?;
    Ok((loaded, dropped))
}

fn path_error(path: &Path, error: &dyn std::fmt::Display) -> PrepareError {
    PrepareError::Path {
        path: path.to_path_buf(),
        why: error.to_string(),
    }
}

/// A BPF file system that root alone changes, and the agent's group reads.
fn mount(directory: &Path) -> Result<(), PrepareError> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let failed = |error: &dyn std::fmt::Display| path_error(directory, error);
    fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    let there = rustix::fs::statfs(directory).map_err(|error: Errno| failed(&error))?;
    if there.f_type != BPF_FS_MAGIC {
        let flags = rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount(c"lxmesh", directory, c"bpf", flags, Some(c"mode=0700"))
            .map_err(|error| failed(&format_args!("mounting a BPF file system: {error}")))?;
    }
    own(directory, 0o750)
}

/// For root to change and for the agent's group to use. Pins are not made to be run.
fn share(path: &Path) -> Result<(), PrepareError> {
    own(path, 0o640)
}

fn own(path: &Path, mode: u32) -> Result<(), PrepareError> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let group = number_of(&groups, GROUP).unwrap_or(0);
    let failed = |error: std::io::Error| path_error(path, &error);
    std::os::unix::fs::chown(path, Some(0), Some(group)).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    let now = fs::metadata(path).map_err(failed)?;
    debug_assert_eq!((now.uid(), now.gid(), now.mode() & 0o777), (0, group, mode));
    Ok(())
}

/// The number of a group, from group(5).
fn number_of(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_its_number_in_the_third_field() {
        let groups = "root:x:0:\nlxmesh-x:x:7:\nlxmesh:x:991:web\nlxd:x:\n";
        assert_eq!(number_of(groups, "lxmesh"), Some(991));
        assert_eq!(number_of(groups, "lxd"), None);
        assert_eq!(number_of(groups, "incus"), None);
    }
}
