//! The keys that instances and devices have for LXMesh, and what was meant to be one. What an unknown key
//! costs is decided in `model::nic`.

/// What they all begin with.
pub const PREFIX: &str = "user.lxmesh.";

/// Those that only a device has.
pub const OF_DEVICES: [&str; 3] = ["parent", "ipv4.address", "ipv6.address"];

/// Those that a device has, or the instance for all of its devices.
pub const OF_BOTH: [&str; 10] = [
    "in_services",
    "out_services",
    "tags",
    "acls",
    "audit",
    "log_drops",
    "limits.connections",
    "limits.new_connections",
    "limits.control_packets",
    "limits.multicast_groups",
];

/// Whether it is one of ours, wherever it may stand.
pub fn is_known(key: &str) -> bool {
    let rest = key.strip_prefix(PREFIX);
    rest.is_some_and(|rest| OF_DEVICES.contains(&rest) || OF_BOTH.contains(&rest))
}

/// Whether somebody may have meant LXMesh by it: `user.lxmesh` and whatever follows it, in letters of
/// any size, or the same with one letter of the name wrong, left out, too many, or in its neighbour's place.
pub fn is_meant(key: &str) -> bool {
    rest_of(key).is_some()
}

/// What follows the name of LXMesh in a key that is meant for it.
pub fn rest_of(key: &str) -> Option<&str> {
    let space = "user.";
    let name = "lxmesh";
    let begins = key.get(..space.len())?;
    if !begins.eq_ignore_ascii_case(space) {
        return None;
    }
    let key = &key[space.len()..];
    if let Some(begins) = key.get(..name.len())
        && begins.eq_ignore_ascii_case(name)
    {
        let rest = &key[name.len()..];
        return Some(rest.trim_start_matches(['.', '_', '-', ' ', ':', '/']));
    }
    let (first, rest) = key.split_once('.')?;
    // Only short names are compared; a longer one is somebody else's.
    let near = first.len() <= name.len() + 1
        && strsim::damerau_levenshtein(&first.to_ascii_lowercase(), name) <= 1;
    near.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_for_us_and_what_is_somebody_elses() {
        for (key, rest) in [
            ("user.lxmesh.acls", Some("acls")),
            ("user.lxmesh", Some("")),
            ("user.lxmesh.", Some("")),
            ("user.lxmesh_acls", Some("acls")),
            ("user.lxmeshacls", Some("acls")),
            ("user.lxmesh..acls", Some("acls")),
            ("user.LXMesh.acls", Some("acls")),
            ("User.lxmesh.acls", Some("acls")),
            ("user.lxmsh.acls", Some("acls")),
            ("user.lxmehs.acls", Some("acls")),
            ("user.lxxmesh.acls.1", Some("acls.1")),
            ("user.mesh.acls", None),
            ("user.lx.acls", None),
            ("user.other.lxmesh", None),
            ("user.üser.acls", None),
            ("user.", None),
            ("lxmesh.acls", None),
            ("userlxmesh.acls", None),
            ("ü", None),
        ] {
            assert_eq!(rest_of(key), rest, "{key}");
        }
    }

    #[test]
    fn only_exact_keys_are_known() {
        assert!(is_known("user.lxmesh.acls") && is_known("user.lxmesh.ipv4.address"));
        for key in [
            "user.lxmesh.acl",
            "user.lxmesh.ACLS",
            "user.lxmesh_acls",
            "acls",
            "user.lxmesh.acls ",
        ] {
            assert!(!is_known(key), "{key}");
        }
    }
}
