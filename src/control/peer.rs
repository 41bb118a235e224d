//! Who may ask the agent: root, the agent's own user, and members of the group it runs in. The
//! socket's mode says the same; this holds even where somebody has changed the mode.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Who is let in beside root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The agent's own user.
    pub user: u32,
    /// Members of this group; nobody by group if the agent runs in root's.
    pub group: Option<u32>,
}

/// What the kernel knows of the other end since it connected (unix(7): `SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub user: u32,
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Allowed {
    /// By the identity of this process.
    pub fn by_own_identity() -> Self {
        let group = rustix::process::getegid();
        Self {
            user: rustix::process::geteuid().as_raw(),
            group: (!group.is_root()).then_some(group.as_raw()),
        }
    }

    pub fn admits(&self, peer: &Peer) -> bool {
        let Self { user, group } = self;
        peer.user == 0
            || peer.user == *user
            || group.is_some_and(|group| peer.group == group || peer.groups.contains(&group))
    }

    /// Mode of the socket.
    pub fn mode(&self) -> u32 {
        if self.group.is_some() { 0o660 } else { 0o600 }
    }
}

impl Peer {
    /// Of a connected unix socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = rustix::net::sockopt::socket_peercred(socket)?;
        Ok(Self {
            user: credentials.uid.as_raw(),
            group: credentials.gid.as_raw(),
            groups: groups(socket)?,
        })
    }
}

/// The kernel says ERANGE and how much room it needs where there is too little.
fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let size = size_of::<libc::gid_t>();
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let room = groups.len() * size;
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: `groups` has room for the `length` bytes that are announced.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        let count = length as usize / size;
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn peer(user: u32, group: u32, groups: &[u32]) -> Peer {
        Peer {
            user,
            group,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn root_the_agent_and_its_group_are_admitted() {
        let allowed = Allowed {
            user: 990,
            group: Some(991),
        };
        for (who, admitted) in [
            (peer(0, 0, &[]), true),
            (peer(990, 5, &[]), true),
            (peer(1000, 991, &[]), true),
            (peer(1000, 1000, &[4, 991]), true),
            (peer(1000, 1000, &[4]), false),
            (peer(991, 990, &[0]), false),
        ] {
            assert_eq!(allowed.admits(&who), admitted, "{who:?}");
        }
    }

    #[test]
    fn roots_group_admits_nobody() {
        let allowed = Allowed {
            user: 0,
            group: None,
        };
        assert!(!allowed.admits(&peer(1000, 0, &[0])));
        assert_eq!(allowed.mode(), 0o600);
    }

    #[test]
    fn the_kernel_says_who_this_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        assert_eq!(peer.user, rustix::process::geteuid().as_raw());
        assert_eq!(peer.group, rustix::process::getegid().as_raw());
        let mut wanted: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect();
        let mut found = peer.groups;
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted);
    }
}
