//! Which socket is the server's. LXD and Incus may both be installed, and nothing but the operator says
//! which of them has the instances: a guess would withdraw those of the other one. Nobody is connected to
//! to find out, because systemd would start a daemon for it.

use super::client::{LxdError, Program};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where LXD (snap, package) and Incus put their sockets; of one program's, in the order that they are tried.
const SOCKETS: [(Program, &str); 4] = [
    (Program::Lxc, "/var/snap/lxd/common/lxd/unix.socket"),
    (Program::Lxc, "/var/lib/lxd/unix.socket"),
    (Program::Incus, "/run/incus/unix.socket"),
    (Program::Incus, "/var/lib/incus/unix.socket"),
];

/// Variables that name a directory with a socket, as LXD's and Incus' own clients know them.
const VARIABLES: [&str; 2] = ["LXD_DIR", "INCUS_DIR"];

/// Sockets on which somebody listens, in this network namespace.
const LISTENING: &str = "/proc/net/unix";

/// A socket, and whose it is by its place, if its place says so.
pub type Socket = (PathBuf, Option<Program>);

/// Finds the socket: the configured one, else that of `LXD_DIR` or `INCUS_DIR`, else the only one in the
/// usual places. `before`: whose it was when it was last found in them; another program's is not taken instead.
pub fn find(configured: Option<&Path>, before: Option<Program>) -> Result<Socket, LxdError> {
    if let Some(socket) = configured {
        return Ok((socket.to_path_buf(), None));
    }
    let directories = VARIABLES.iter().filter_map(std::env::var_os);
    let named = directories.filter(|directory| !directory.is_empty());
    let named: BTreeSet<PathBuf> = named
        .map(|directory| Path::new(&directory).join("unix.socket"))
        .collect();
    match named.len() {
        0 => {}
        1 => return Ok((named.into_iter().next().unwrap_or_default(), None)),
        _ => return Err(several(named)),
    }
    let places = SOCKETS.map(|(program, path)| (program, place(path)));
    let there: Vec<(Program, PathBuf)> = places
        .iter()
        .filter(|(_, path)| path.exists())
        .cloned()
        .collect();
    let listening = std::fs::read_to_string(LISTENING).unwrap_or_default();
    choose(&there, before, &listening).map_err(|error| match error {
        LxdError::NoSocket { .. } => LxdError::NoSocket {
            tried: listed(places.into_iter().map(|(_, path)| path)),
        },
        error => error,
    })
}

/// Below another root in tests.
fn place(path: &str) -> PathBuf {
    #[cfg(feature = "test-hooks")]
    if let Some(root) = std::env::var_os("LXMESH_TEST_SOCKETS_ROOT") {
        return Path::new(&root).join(path.trim_start_matches('/'));
    }
    path.into()
}

/// Of the sockets that there are, the one to take. Pure but for links in the paths.
fn choose(
    there: &[(Program, PathBuf)],
    before: Option<Program>,
    listening: &str,
) -> Result<Socket, LxdError> {
    let Some((first, _)) = there.first() else {
        return Err(LxdError::NoSocket {
            tried: String::new(),
        });
    };
    if there.iter().any(|(program, _)| program != first) {
        return Err(several(there.iter().map(|(_, path)| path.clone())));
    }
    if let Some(before) = before.filter(|before| before != first) {
        return Err(LxdError::OtherProgram {
            before: before.server(),
            now: listed(there.iter().map(|(_, path)| path.clone())),
        });
    }
    // Sockets of one program: what nobody listens on was left behind by another package of it.
    let listens = |path: &Path| {
        let mut lines = listening.lines();
        lines.any(|line| line.split(' ').next_back().map(Path::new) == Some(path))
    };
    let mut real = BTreeSet::new();
    let distinct = there.iter().filter(|(_, path)| {
        let canonical = path.canonicalize();
        real.insert(canonical.unwrap_or_else(|_| path.clone()))
    });
    let distinct: Vec<&(Program, PathBuf)> = distinct.collect();
    let live: Vec<&PathBuf> = distinct
        .iter()
        .filter(|(_, path)| listens(path) || path.canonicalize().is_ok_and(|real| listens(&real)))
        .map(|(_, path)| path)
        .collect();
    match live[..] {
        [] => Ok((there[0].1.clone(), Some(*first))),
        [one] => Ok((one.clone(), Some(*first))),
        _ => Err(several(live.into_iter().cloned())),
    }
}

fn several(sockets: impl IntoIterator<Item = PathBuf>) -> LxdError {
    LxdError::SeveralSockets {
        sockets: joined(sockets, " and "),
    }
}

fn listed(sockets: impl IntoIterator<Item = PathBuf>) -> String {
    joined(sockets, ", ")
}

fn joined(sockets: impl IntoIterator<Item = PathBuf>, by: &str) -> String {
    let sockets = sockets.into_iter().map(|path| path.display().to_string());
    sockets.collect::<Vec<_>>().join(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNAP: (Program, &str) = (Program::Lxc, "/nonexistent/snap/unix.socket");
    const PACKAGE: (Program, &str) = (Program::Lxc, "/nonexistent/lib/lxd/unix.socket");
    const RUN: (Program, &str) = (Program::Incus, "/nonexistent/run/incus/unix.socket");
    const LIB: (Program, &str) = (Program::Incus, "/nonexistent/lib/incus/unix.socket");

    fn found(
        there: &[(Program, &str)],
        before: Option<Program>,
        listening: &[(Program, &str)],
    ) -> Result<String, String> {
        let there: Vec<(Program, PathBuf)> = there
            .iter()
            .map(|(program, path)| (*program, path.into()))
            .collect();
        let lines = listening.iter().map(|(_, path)| {
            format!("0000000000000000: 00000002 00000000 00010000 0001 01 4711 {path}\n")
        });
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n".to_string();
        let all = head + &lines.collect::<String>();
        let (path, program) = choose(&there, before, &all).map_err(|error| error.to_string())?;
        assert!(program.is_some());
        Ok(path.display().to_string())
    }

    #[test]
    fn sockets_of_two_programs_are_refused_by_name_whoever_listens() {
        for listening in [&[][..], &[SNAP], &[RUN], &[SNAP, RUN]] {
            for before in [None, Some(Program::Lxc), Some(Program::Incus)] {
                let said = found(&[SNAP, RUN], before, listening).unwrap_err();
                for wanted in [SNAP.1, RUN.1, "`socket` in [lxd]"] {
                    assert!(said.contains(wanted), "{said}");
                }
            }
        }
    }

    /// Else Incus, which has no such instances, would be asked while LXD is being upgraded.
    #[test]
    fn another_program_is_not_taken_because_the_first_is_gone_for_a_moment() {
        let said = found(&[LIB], Some(Program::Lxc), &[LIB]).unwrap_err();
        assert!(said.contains("LXD") && said.contains(LIB.1), "{said}");
        assert!(said.contains("restart the agent"), "{said}");
        assert_eq!(found(&[LIB], Some(Program::Incus), &[]), Ok(LIB.1.into()));
        assert_eq!(found(&[LIB], None, &[]), Ok(LIB.1.into()));
    }

    #[test]
    fn two_sockets_of_one_program_are_one_daemon_unless_both_are_listened_on() {
        let there = [SNAP, PACKAGE];
        for (listening, wanted) in [
            (&[][..], SNAP.1),
            (&[SNAP], SNAP.1),
            (&[PACKAGE], PACKAGE.1),
            (&[RUN, LIB], SNAP.1),
        ] {
            assert_eq!(found(&there, None, listening), Ok(wanted.into()));
        }
        let said = found(&there, None, &there).unwrap_err();
        assert!(said.contains(SNAP.1) && said.contains(PACKAGE.1), "{said}");
        assert_eq!(found(&[RUN, LIB], None, &[LIB]), Ok(LIB.1.into()));
    }

    #[test]
    fn two_names_of_one_socket_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        std::fs::write(&real, "").unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let line = |path: &Path| format!("0: 2 0 10000 1 1 7 {}\n", path.display());
        let there = [
            (Program::Incus, link.clone()),
            (Program::Incus, real.clone()),
        ];
        let (found, _) = choose(&there, None, &(line(&real) + &line(&link))).unwrap();
        assert_eq!(found, link);
        let (found, _) = choose(&there, None, &line(&real)).unwrap();
        assert_eq!(found, link);
    }
}
