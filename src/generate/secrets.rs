//! The files of this host that hold secrets of the fabric, and whether others may read or replace
//! them. Looking and judging are apart; what is judged has no secret in it.

use super::extra;
use crate::host::{HostFile, Trust};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where strongSwan looks for private keys that are not encrypted.
const PRIVATE_KEYS: [&str; 4] = [
    "/etc/swanctl/private",
    "/etc/swanctl/rsa",
    "/etc/swanctl/ecdsa",
    "/etc/swanctl/pkcs8",
];
/// What FRR reads has the password in it, and is FRR's own file.
const FRR: &str = "/etc/frr/frr.conf";
/// Everybody may read what is in it, and no mode there lasts.
const NIX_STORE: &str = "/nix/store";

/// A file with a secret, or a directory above it, that is open to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    /// Which secret, which file or directory, and what is wrong with it.
    pub what: String,
    pub remedy: String,
}

/// A file that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Secret {
    /// Of the host file, or what it is.
    key: &'static str,
    path: PathBuf,
    /// Nobody but root has to read it by its owner's right.
    is_roots: bool,
}

/// A file or directory, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    path: PathBuf,
    mode: u32,
    owner: u32,
}

/// All that is open to others on this host. Files that are not there, or cannot be looked at, are
/// left out.
pub fn exposed(file: &HostFile) -> Vec<Exposed> {
    let secrets = secrets(file).into_iter();
    let mut all: Vec<Exposed> = Vec::new();
    for exposed in secrets.flat_map(|secret| judge(&secret, &way_to(&secret.path))) {
        // One directory may be above several.
        if !all.iter().any(|known| known.remedy == exposed.remedy) {
            all.push(exposed);
        }
    }
    all
}

fn secrets(file: &HostFile) -> Vec<Secret> {
    let secret = |key, path: &Path, is_roots| Secret {
        key,
        path: path.into(),
        is_roots,
    };
    let mut all = Vec::new();
    if let Some(path) = &file.bgp.password_file {
        all.push(secret("bgp.password_file", path, true));
        all.push(secret(
            "the password of bgp.password_file",
            Path::new(FRR),
            false,
        ));
    }
    // Lines of the operator's own, which may have other passwords in them.
    if let Ok(Some(lines)) = extra::read_frr(Path::new("/"))
        && has_password(&lines)
    {
        all.push(secret("a password for FRR", Path::new(extra::FRR), true));
    }
    match file.ipsec.as_ref().map(|ipsec| &ipsec.trust) {
        None => {}
        Some(Trust::Psk { file }) => all.push(secret("ipsec.psk_file", file, true)),
        Some(Trust::Certificates { .. }) => {
            let entries = PRIVATE_KEYS
                .iter()
                .flat_map(fs::read_dir)
                .flatten()
                .flatten();
            let keys = entries.map(|entry| entry.path());
            all.extend(keys.map(|path| secret("a private key of strongSwan", &path, true)));
        }
    }
    all
}

/// Whether lines for FRR hold a secret: `neighbor X password Y`, `key-string Y`, `ip ospf
/// message-digest-key N md5 Y` and their like.
fn has_password(lines: &str) -> bool {
    const BEFORE: [&str; 3] = ["password", "key-string", "md5"];
    lines.split_whitespace().any(|word| BEFORE.contains(&word))
}

/// The file, then the directories above it, up to the root: those of its name, and where that leads
/// by symbolic links, those of the file. Empty if the file cannot be looked at.
fn way_to(path: &Path) -> Vec<Node> {
    let node = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Node {
            path: path.into(),
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
        })
    };
    let Some(real) = fs::canonicalize(path).ok() else {
        return Vec::new();
    };
    let mut paths: Vec<&Path> = real.ancestors().collect();
    for named in path.ancestors().skip(1) {
        if !paths.contains(&named) {
            paths.push(named);
        }
    }
    paths.into_iter().filter_map(node).collect()
}

/// What others may do with a secret. Pure.
fn judge(secret: &Secret, way: &[Node]) -> Vec<Exposed> {
    const READ: u32 = 0o004;
    const WRITE: u32 = 0o002;
    const ENTER: u32 = 0o001;
    const STICKY: u32 = 0o1000;
    let Some((file, above)) = way.split_first() else {
        return Vec::new();
    };
    let key = secret.key;
    let mut found = Vec::new();
    let mut add = |what: String, remedy: String| found.push(Exposed { what, remedy });
    let reachable = above.iter().all(|node| node.mode & ENTER != 0);
    let (shown, mode) = (file.path.display(), file.mode);
    let may = match (mode & READ != 0, mode & WRITE != 0) {
        _ if !reachable => None,
        (true, true) => Some("read and change"),
        (true, false) => Some("read"),
        (false, true) => Some("change"),
        (false, false) => None,
    };
    if let Some(may) = may {
        add(
            format!("{key}: {shown} has mode {mode:04o}: every user of this host may {may} it"),
            match file.path.starts_with(NIX_STORE) {
                true => "keep the file out of the Nix store, and replace the secret".into(),
                false => format!(
                    "chmod o= {shown}; if others than root can log in here, replace the secret, too"
                ),
            },
        );
    }
    if secret.is_roots && file.owner != 0 {
        add(
            format!(
                "{key}: {shown} belongs to user {}, who may read and change it",
                file.owner
            ),
            format!("chown root {shown}"),
        );
    }
    for Node { path, mode, owner } in above {
        let shown = path.display();
        // In a sticky directory only the owner of a file may replace it.
        if reachable && mode & WRITE != 0 && mode & STICKY == 0 {
            add(
                format!(
                    "{key}: {shown}, above {}, has mode {mode:04o}: every user of this host may put another file in its place",
                    file.path.display()
                ),
                format!("chmod o-w {shown}"),
            );
        }
        if secret.is_roots && *owner != 0 {
            add(
                format!(
                    "{key}: {shown}, above {}, belongs to user {owner}, who may put another file in its place",
                    file.path.display()
                ),
                format!(
                    "chown root {shown}, or move the file to a directory of root's and name it there"
                ),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(file: (u32, u32), above: &[(u32, u32)]) -> Vec<Node> {
        let node = |path: &str, (mode, owner)| Node {
            path: path.into(),
            mode,
            owner,
        };
        let above = above.iter().zip(["/etc/x", "/etc", "/"]);
        let above = above.map(|(of, path)| node(path, *of));
        std::iter::once(node("/etc/x/key", file))
            .chain(above)
            .collect()
    }

    fn found(file: (u32, u32), above: &[(u32, u32)]) -> Vec<String> {
        let secret = Secret {
            key: "ipsec.psk_file",
            path: "/etc/x/key".into(),
            is_roots: true,
        };
        let found = judge(&secret, &way(file, above)).into_iter();
        found
            .map(|Exposed { what, remedy }| format!("{what} | {remedy}"))
            .collect()
    }

    #[test]
    fn what_is_roots_and_closed_is_well() {
        let open = [(0o755, 0), (0o755, 0), (0o755, 0)];
        for mode in [0o600, 0o400, 0o640, 0o660] {
            assert_eq!(found((mode, 0), &open), [""; 0], "{mode:o}");
        }
        // Nobody else gets to it.
        assert_eq!(found((0o644, 0), &[(0o700, 0), (0o755, 0)]), [""; 0]);
        assert_eq!(found((0o600, 0), &[(0o1777, 0), (0o755, 0)]), [""; 0]);
        assert_eq!(
            judge(
                &Secret {
                    key: "k",
                    path: "/x".into(),
                    is_roots: true
                },
                &[]
            ),
            []
        );
    }

    #[test]
    fn what_others_may_read_or_replace_is_named_with_its_mode_and_a_remedy() {
        let open = [(0o755, 0), (0o755, 0), (0o755, 0)];
        assert_eq!(
            found((0o644, 0), &open),
            [
                "ipsec.psk_file: /etc/x/key has mode 0644: every user of this host may read it | chmod o= /etc/x/key; if others than root can log in here, replace the secret, too"
            ]
        );
        assert!(
            found((0o602, 0), &open)[0].contains("0602: every user of this host may change it")
        );
        assert!(found((0o666, 0), &open)[0].contains("may read and change it"));
        assert_eq!(
            found((0o600, 1000), &open),
            [
                "ipsec.psk_file: /etc/x/key belongs to user 1000, who may read and change it | chown root /etc/x/key"
            ]
        );
        assert_eq!(
            found((0o600, 0), &[(0o777, 0), (0o755, 1000), (0o755, 0)]),
            [
                "ipsec.psk_file: /etc/x, above /etc/x/key, has mode 0777: every user of this host may put another file in its place | chmod o-w /etc/x",
                "ipsec.psk_file: /etc, above /etc/x/key, belongs to user 1000, who may put another file in its place | chown root /etc, or move the file to a directory of root's and name it there",
            ]
        );
    }

    #[test]
    fn what_is_in_the_nix_store_has_to_leave_it() {
        let path = "/nix/store/abc-key";
        let secret = Secret {
            key: "ipsec.psk_file",
            path: path.into(),
            is_roots: true,
        };
        let node = |path: &str, mode| Node {
            path: path.into(),
            mode,
            owner: 0,
        };
        let found = judge(&secret, &[node(path, 0o444), node("/nix/store", 0o1775)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].remedy.contains("out of the Nix store"));
    }

    #[test]
    fn lines_for_frr_may_hold_a_password() {
        assert!(has_password(
            "router bgp 1\n neighbor 192.0.2.1 password x\n"
        ));
        assert!(has_password(" key-string x"));
        assert!(!has_password(
            "router bgp 1\n neighbor 192.0.2.1 description passwordless\n"
        ));
    }

    #[test]
    fn what_frr_reads_is_frrs() {
        let secret = Secret {
            key: "the password",
            path: FRR.into(),
            is_roots: false,
        };
        let node = |path: &str, mode| Node {
            path: path.into(),
            mode,
            owner: 107,
        };
        assert_eq!(
            judge(&secret, &[node(FRR, 0o640), node("/etc/frr", 0o755)]),
            []
        );
        assert_eq!(
            judge(&secret, &[node(FRR, 0o644), node("/etc/frr", 0o755)]).len(),
            1
        );
    }
}
