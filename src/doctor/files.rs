//! What the files say that `lxmesh-gen` renders for the kernel, and the kernel's own lists of its
//! modules. Pure.

use crate::generate::OutputFile;

/// Where a module of the kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Loaded,
    /// Built in, which is as good.
    BuiltIn,
    OnDisk,
    Absent,
    /// The kernel's list of modules is not there.
    Unknown,
}

/// One line of a file of sysctl.d(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// It need not exist (a dash before it).
    pub optional: bool,
}

/// What a file of sysctl.d sets; nothing if it is another file.
pub fn settings(file: &OutputFile) -> Vec<Setting> {
    lines(file, "sysctl.d")
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let plain = key.trim().trim_start_matches('-');
            Some(Setting {
                key: plain.into(),
                value: value.trim().into(),
                optional: key.trim() != plain,
            })
        })
        .collect()
}

/// What a file of modules-load.d names; nothing if it is another file.
pub fn modules(file: &OutputFile) -> Vec<String> {
    lines(file, "modules-load.d").map(str::to_string).collect()
}

fn lines<'a>(file: &'a OutputFile, directory: &str) -> impl Iterator<Item = &'a str> {
    let of_it = file
        .path
        .parent()
        .is_some_and(|parent| parent.ends_with(directory));
    let lines = file.contents.lines().filter(move |_| of_it);
    lines
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Where a module is that `/sys/module` does not show, by the kernel's lists of modules.
pub fn place_of(name: &str, built_in: Option<&str>, on_disk: Option<&str>) -> Module {
    let names = |line: &str| {
        let path = line.split(':').next().unwrap_or_default();
        let file = path.rsplit('/').next().unwrap_or_default();
        let stem = file.split(".ko").next().unwrap_or_default();
        stem.replace('-', "_") == name
    };
    if built_in.is_some_and(|list| list.lines().any(names)) {
        return Module::BuiltIn;
    }
    match on_disk {
        Some(list) if list.lines().any(names) => Module::OnDisk,
        Some(_) => Module::Absent,
        None => Module::Unknown,
    }
}

/// Tables may be larger than they need be.
pub fn fits(key: &str, have: &str, want: &str) -> bool {
    let size = key.contains("gc_thresh") || key.ends_with("_max");
    match (have.parse::<u64>(), want.parse::<u64>()) {
        (Ok(have), Ok(want)) if size => have >= want,
        _ => have == want,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, contents: &str) -> OutputFile {
        OutputFile {
            path: path.into(),
            mode: 0o644,
            contents: contents.into(),
        }
    }

    #[test]
    fn settings_and_modules_are_read_from_their_own_directories_only() {
        let text = "# net.a=1\n\nnet.ipv4.ip_forward=1\n-net.b = 2\n";
        let setting = |key: &str, value: &str, optional| Setting {
            key: key.into(),
            value: value.into(),
            optional,
        };
        let of_sysctl = file("/etc/sysctl.d/60-lxmesh.conf", text);
        assert_eq!(
            settings(&of_sysctl),
            [
                setting("net.ipv4.ip_forward", "1", false),
                setting("net.b", "2", true)
            ]
        );
        assert!(modules(&of_sysctl).is_empty());
        let of_modules = file("/etc/modules-load.d/lxmesh.conf", "# x\nvxlan\n");
        assert_eq!(modules(&of_modules), ["vxlan"]);
        assert!(settings(&of_modules).is_empty());
    }

    #[test]
    fn what_is_rendered_is_read_back() {
        let text = "version = 1\n[fabric]\nname = \"t\"\nasn = 64500\nreflectors = [\"203.0.113.1\"]\n\
            supervisors = [\"203.0.113.11\"]\n";
        let host = crate::host::parse("x", text).unwrap();
        let files = crate::generate::kernel_files(&host).unwrap();
        let all: Vec<Setting> = files.iter().flat_map(settings).collect();
        let forward = all.iter().find(|s| s.key == "net.ipv4.ip_forward").unwrap();
        assert!(forward.value == "1" && !forward.optional);
        assert!(
            all.iter()
                .any(|s| s.key.ends_with("nf_conntrack_max") && s.optional)
        );
        let names: Vec<String> = files.iter().flat_map(modules).collect();
        assert!(names.contains(&"nft_meta_bridge".into()), "{names:?}");
    }

    #[test]
    fn a_module_is_built_in_on_disk_or_nowhere() {
        let built_in = "kernel/net/netfilter/nf_conntrack.ko\n";
        let on_disk = "kernel/net/bridge/netfilter/nf-conntrack-bridge.ko.xz: kernel/net/x.ko.xz\n";
        for (name, place) in [
            ("nf_conntrack", Module::BuiltIn),
            ("nf_conntrack_bridge", Module::OnDisk),
            ("x", Module::Absent),
        ] {
            assert_eq!(
                place_of(name, Some(built_in), Some(on_disk)),
                place,
                "{name}"
            );
        }
        assert_eq!(place_of("x", None, None), Module::Unknown);
    }

    #[test]
    fn tables_may_be_larger_and_nothing_else_may() {
        assert!(fits("net.ipv4.neigh.default.gc_thresh3", "8192", "4096"));
        assert!(!fits("net.ipv4.neigh.default.gc_thresh3", "1024", "4096"));
        assert!(!fits("net.ipv4.ip_forward", "2", "1"));
        assert!(fits("net.netfilter.nf_conntrack_max", "262144", "262144"));
    }
}
