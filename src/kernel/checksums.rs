//! The check of deferred checksums on ports: whoever sends may leave a packet's checksum to be filled in
//! (`CHECKSUM_PARTIAL`), and say at which offset. Filters and connection tracking see the packet before, so
//! that an offset of the sender's choice would alter what they have approved: addresses, ports. A program on
//! the port's ingress (`program.rs`) lets pass only what points at the checksum of its own TCP, UDP or SCTP
//! header.
//!
//! Root loads the program and pins it (`prepare`); from then on the agent, which may read the pin, attaches it,
//! without a right to load programs. What is attached stays without the one who did it, like a filter. Packets that have
//! passed it have a mark, without which filters drop what comes from a port.

mod program;

use super::KernelError;
use super::bpf_call::{self, ProgramInfo};
use super::btf::{self, Btf};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A BPF file system of our own: systemd mounts /sys/fs/bpf for root alone.
pub const DIRECTORY: &str = "/run/lxmesh-bpf";
/// The agent's user, as the packages make it. Where there is none, the agent is root.
const USER: &str = "lxmesh";
/// The program's pin; the kernel keeps names with dots to itself. Programs of earlier versions are beside
/// it, as `checksums-ID`.
const PROGRAM: &str = "checksums";

/// The pin of the number of packets that a program has dropped.
fn counter_of(id: u32) -> String {
    format!("dropped-{id}")
}

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
        let Some(program) = pinned(&directory.join(PROGRAM))? else {
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
        for path in earlier_pins(directory)? {
            let program = bpf_call::pinned(&path)?;
            let id = bpf_call::info(program.as_fd())?.id;
            earlier.push((program, id));
        }
        Ok(Some(Checks {
            dropped: bpf_call::pinned(&directory.join(counter_of(info.id)))?,
            program,
            id: info.id,
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
    /// has it behind others is without it for a moment, in which nothing of it passes the filters.
    pub fn attach(&self, index: u32) -> Result<(), KernelError> {
        let now = self.attached(index)?;
        if now.behind.is_some_and(|before| before > 0) {
            gone_is_done(bpf_call::detach(index, self.program.as_fd()))?;
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

fn pinned(path: &Path) -> Result<Option<OwnedFd>, KernelError> {
    match bpf_call::pinned(path) {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

fn is_ours(info: &ProgramInfo) -> bool {
    info.is_classifier && info.name == program::NAME
}

/// Pins of programs that were replaced.
fn earlier_pins(directory: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let pins = names(directory).map_err(|error| {
        let attempt = format_args!("looking into {}", directory.display());
        KernelError::new(attempt, error.raw_os_error(), None)
    })?;
    let earlier = pins.into_iter().filter(|name| {
        let number = name
            .strip_prefix(PROGRAM)
            .and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    });
    Ok(earlier.map(|name| directory.join(name)).collect())
}

fn names(directory: &Path) -> std::io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    let names = names.collect::<std::io::Result<Vec<_>>>()?;
    Ok(names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect())
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
        "this kernel cannot check deferred checksums, and no instance is connected without that check.\n  needed: Linux 6.6 or newer with BPF, its compiler and its type information (CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT, CONFIG_NET_CLS_ACT, CONFIG_DEBUG_INFO_BTF), as distributions build it, and net.core.bpf_jit_enable not 0.\n  {0}"
    )]
    Kernel(String),
    #[error("{0}\n  remedy: run it as root; systemctl restart lxmesh-prepare does")]
    Privilege(KernelError),
    #[error(transparent)]
    Call(KernelError),
    #[error("{}: {why}", .path.display())]
    Path { path: PathBuf, why: String },
}

impl From<KernelError> for PrepareError {
    fn from(error: KernelError) -> Self {
        match error.errno() {
            Some(libc::EPERM | libc::EACCES) => PrepareError::Privilege(error),
            _ => PrepareError::Call(error),
        }
    }
}

/// What the kernel has refused for what it is.
fn of_the_kernel(error: KernelError) -> PrepareError {
    match error.errno() {
        Some(libc::EPERM | libc::ENOMEM) => error.into(),
        _ => PrepareError::Kernel(error.to_string()),
    }
}

/// Loads the program and pins it for the agent's user to read. Needs root: CAP_BPF, CAP_PERFMON and
/// CAP_NET_ADMIN to load, CAP_SYS_ADMIN to mount, CAP_CHOWN and CAP_FOWNER. Doing it twice changes nothing, so that what
/// is attached stays the pinned one; a program that differs is put beside the new one. At every moment there is
/// one to attach.
pub fn prepare(directory: &Path) -> Result<Prepared, PrepareError> {
    // lo is in every namespace. Before Linux 6.6 the question is not understood.
    bpf_call::attached(1).map_err(of_the_kernel)?;
    let _lock = lock(directory)?;
    mount(directory)?;
    let user = user()?;
    let (loaded, dropped) = load()?;
    let now = bpf_call::info(loaded.as_fd())?;
    let path = directory.join(PROGRAM);
    let mut prepared = Prepared::Loaded;
    if let Some(program) = pinned(&path)? {
        let before = bpf_call::info(program.as_fd())?;
        let counted = directory.join(counter_of(before.id)).exists();
        if is_ours(&before) && before.tag == now.tag && counted {
            prepared = Prepared::Already;
        } else {
            pin(
                &program,
                &directory.join(format!("{PROGRAM}-{}", before.id)),
            )?;
        }
    }
    if prepared == Prepared::Loaded {
        pin(&dropped, &directory.join(counter_of(now.id)))?;
        let new = directory.join("new");
        pin(&loaded, &new)?;
        fs::rename(&new, &path).map_err(|error| path_error(&path, &error))?;
    }
    let all = names(directory).map_err(|error| path_error(directory, &error))?;
    for name in all.iter().filter(|name| !name.contains('.')) {
        let path = directory.join(name);
        std::os::unix::fs::chown(&path, Some(user), Some(0))
            // Root's group as well: an agent that root starts gives up the right to read what is others'.
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o440)))
            .map_err(|error| path_error(&path, &error))?;
    }
    Ok(prepared)
}

/// In place of whatever is there.
fn pin(object: &OwnedFd, path: &Path) -> Result<(), PrepareError> {
    if path.exists() {
        fs::remove_file(path).map_err(|error| path_error(path, &error))?;
    }
    Ok(bpf_call::pin(object.as_fd(), path)?)
}

fn load() -> Result<(OwnedFd, OwnedFd), PrepareError> {
    let bytes = btf::read().map_err(PrepareError::Kernel)?;
    let unlike = || PrepareError::Kernel(format!("{} is not understood", btf::PATH));
    let btf = Btf::parse(&bytes).ok_or_else(unlike)?;
    let places = program::Places::of(&btf).map_err(PrepareError::Kernel)?;
    let dropped = bpf_call::create_counter(program::NAME)?;
    let instructions = program::assemble(&places, dropped.as_fd());
    let loaded = bpf_call::load_classifier(program::NAME, &instructions, program::LICENCE)
        .map_err(of_the_kernel)?;
    Ok((loaded, dropped))
}

fn path_error(path: &Path, error: &dyn std::fmt::Display) -> PrepareError {
    PrepareError::Path {
        path: path.to_path_buf(),
        why: error.to_string(),
    }
}

/// One at a time; until it is dropped.
fn lock(directory: &Path) -> Result<fs::File, PrepareError> {
    let path = directory.with_extension("lock");
    let failed = |error: &dyn std::fmt::Display| path_error(&path, error);
    let file = fs::File::create(&path).map_err(|error| failed(&error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failed(&error))?;
    Ok(file)
}

/// A BPF file system that only root changes.
fn mount(directory: &Path) -> Result<(), PrepareError> {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let failed = |error: &dyn std::fmt::Display| path_error(directory, error);
    fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    let there = rustix::fs::statfs(directory).map_err(|error| failed(&error))?;
    if there.f_type != BPF_FS_MAGIC {
        let flags = rustix::mount::MountFlags::NOSUID
            | rustix::mount::MountFlags::NODEV
            | rustix::mount::MountFlags::NOEXEC;
        rustix::mount::mount(c"lxmesh", directory, c"bpf", flags, Some(c"mode=0755"))
            .map_err(|error| failed(&format_args!("mounting a BPF file system: {error}")))?;
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
        .map_err(|error| failed(&error))
}

/// The number of the agent's user; root's where there is none.
fn user() -> Result<u32, PrepareError> {
    let path = Path::new("/etc/passwd");
    let users = fs::read_to_string(path).map_err(|error| path_error(path, &error))?;
    Ok(number_of(&users, USER).unwrap_or(0))
}

/// The number of a user, from passwd(5).
fn number_of(users: &str, name: &str) -> Option<u32> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_number_in_the_third_field() {
        let users = "root:x:0:0::/:\nlxmesh-x:x:7:7::/:\nlxmesh:x:991:990::/:\nlxd:x:\n";
        assert_eq!(number_of(users, "lxmesh"), Some(991));
        assert_eq!(number_of(users, "lxd"), None);
        assert_eq!(number_of(users, "incus"), None);
    }
}
