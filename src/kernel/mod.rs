//! The kernel, as the agent speaks to it: rtnetlink, nf_tables and connection tracking over raw
//! sockets, BPF programs on ports, the event monitor, files and sysctls. Reads and writes what it is told to; decides nothing and keeps no
//! state between calls.
//!
//! Why our own netlink code: a dump error arrives in `NLMSG_DONE` and an interrupted dump only in a
//! header flag. The usual crates hide both, so that *unknown* looks like *empty*; and they cost two
//! to four times the time (`rtnl::Rtnl::apply` sends 256 requests per system call).

mod bpf;
mod bpf_call;
mod btf;
pub mod checksums;
pub mod conntrack;
pub mod fault;
pub mod files;
pub mod link;
pub mod mdb_codec;
pub mod monitor;
pub mod nflog;
pub mod nft;
mod op;
pub mod rtnl;
mod socket;
pub mod sysctl;
pub mod tlv;
pub mod tunnel;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use checksums::Checks;
pub use conntrack::Conntrack;
pub use nft::Nft;
pub use rtnl::Rtnl;

/// The request sockets. All belong to the network namespace that the opening thread was in.
pub struct Kernel {
    pub rtnl: Rtnl,
    pub nft: Nft,
    pub conntrack: Conntrack,
    /// The check of deferred checksums; `None` while `lxmesh prepare` has not loaded it.
    pub checks: Result<Option<Checks>, KernelError>,
    /// Of texts that make nftables tables: the digest of what they make, by that of the text. See `kinds::nft_whole`.
    pub made: BTreeMap<String, String>,
}

impl Kernel {
    /// Opens the sockets in the current thread's network namespace.
    pub fn open() -> Result<Kernel, KernelError> {
        Ok(Kernel {
            rtnl: Rtnl::open()?,
            nft: Nft::open()?,
            conntrack: Conntrack::open()?,
            checks: Checks::open(Path::new(checksums::DIRECTORY)),
            made: BTreeMap::new(),
        })
    }
}

/// Why the kernel (or a program that speaks to it) did not do what was attempted.
///
/// Displays as `attempt: ERRNO (text): the kernel's own explanation`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct KernelError {
    attempt: String,
    errno: Option<i32>,
    text: Option<String>,
}

impl KernelError {
    pub(crate) fn new(
        attempt: impl fmt::Display,
        errno: Option<i32>,
        text: Option<String>,
    ) -> Self {
        KernelError {
            attempt: attempt.to_string(),
            errno,
            text,
        }
    }

    pub(crate) fn from_errno(attempt: impl fmt::Display, errno: rustix::io::Errno) -> Self {
        KernelError::new(attempt, Some(errno.raw_os_error()), None)
    }

    /// An error of ours with the errno that fits it best, and our explanation in the kernel's place.
    pub(crate) fn ours(attempt: impl fmt::Display, errno: i32, text: impl Into<String>) -> Self {
        KernelError::new(attempt, Some(errno), Some(text.into()))
    }

    /// The positive errno, if one was given. None for a failed child process.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    /// What was attempted, on which object.
    pub fn attempt(&self) -> &str {
        &self.attempt
    }

    /// The kernel's extended-ack text, or the program's standard error.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// True if looking again and trying again may well succeed without anybody's help:
    ///
    /// - the kernel was busy or short of memory, or a reply was lost: EBUSY, EINTR, EAGAIN, ENOBUFS,
    ///   ENOMEM, ETIMEDOUT, ERESTART (a stale nf_tables generation);
    /// - the object, or the link it is on, went away since it was read: ENODEV, ENOENT, ENXIO,
    ///   ESRCH; another look at the links decides whether the change is still wanted.
    ///
    /// EEXIST is not: a stranger holds the place, and somebody should know.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.errno,
            Some(
                libc::EBUSY
                    | libc::EINTR
                    | libc::EAGAIN
                    | libc::ENOBUFS
                    | libc::ENOMEM
                    | libc::ETIMEDOUT
                    | libc::ERESTART
                    | libc::ENODEV
                    | libc::ENOENT
                    | libc::ENXIO
                    | libc::ESRCH
            )
        )
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempt)?;
        if let Some(errno) = self.errno {
            match errno_name(errno) {
                Some(name) => write!(f, ": {name}")?,
                None => write!(f, ": errno {errno}")?,
            }
            // `io::Error` appends " (os error 17)", which the name has said already.
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            write!(f, " ({text})")?;
        }
        match &self.text {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}

fn errno_name(errno: i32) -> Option<&'static str> {
    macro_rules! names {
        ($($name:ident)*) => { match errno { $(libc::$name => Some(stringify!($name)),)* _ => None } };
    }
    names! {
        EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST
        EXDEV ENODEV ENOTDIR EISDIR EINVAL EMFILE EFBIG ENOSPC EROFS EPIPE ERANGE ELOOP
        EOVERFLOW EMSGSIZE EPROTONOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
        EADDRNOTAVAIL ENETDOWN ENETUNREACH ECONNRESET ENOBUFS ETIMEDOUT EHOSTUNREACH EALREADY
        ERESTART EPROTO EBADMSG EPROTOTYPE ENOPROTOOPT EXFULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_was_tried_the_errno_and_the_kernels_own_words() {
        let error = KernelError::new(
            "adding 10.0.0.1",
            Some(libc::EEXIST),
            Some("Route exists".into()),
        );
        assert_eq!(
            error.to_string(),
            "adding 10.0.0.1: EEXIST (File exists): Route exists"
        );
        assert!(!error.is_transient());
        let error = KernelError::new("x", Some(libc::EBUSY), None);
        assert_eq!(error.to_string(), "x: EBUSY (Device or resource busy)");
        assert!(error.is_transient());
    }
}
