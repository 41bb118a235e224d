//! `lxmesh-gen apply` on a directory that stands for a host: the journal, and a death at every
//! step. What programs do with the files is in `apply_frr.rs` and the lab.

#![allow(
    clippy::disallowed_methods,
    reason = "tests wait, and write files nobody else reads"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

const OLD: &str = r#"version = 1
[fabric]
name = "lab"
asn = 64500
reflectors = ["198.51.100.101"]
supervisors = ["198.51.100.0/24"]
[[network]]
name = "vpc"
vni = 100
[[network]]
name = "old"
vni = 200
"#;

/// Files are changed, made and removed.
fn new() -> String {
    OLD.replace("64500", "64501")
        .replace("name = \"old\"\nvni = 200", "name = \"new\"\nvni = 300")
}

struct Host {
    directory: TempDir,
}

impl Host {
    /// A host on which OLD was applied.
    fn new() -> Self {
        let host = Host {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(host.root()).unwrap();
        host.write("etc/motd", "a stranger's\n");
        host.ok(&host.apply(OLD, &[], None));
        host
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn run(&self, words: &[&str], crash_at: Option<u32>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lxmesh-gen"));
        command.args(words).arg("--root").arg(self.root());
        if let Some(step) = crash_at {
            command.env("LXMESH_TEST_CRASH_AT", step.to_string());
        }
        command.output().unwrap()
    }

    fn on(&self, command: &str, text: &str, more: &[&str], crash_at: Option<u32>) -> Output {
        let path = self.directory.path().join("host.toml");
        fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let words = [command, "--host", "198.51.100.11", "--host-file", path];
        self.run(&[&words[..], more].concat(), crash_at)
    }

    fn apply(&self, text: &str, more: &[&str], crash_at: Option<u32>) -> Output {
        self.on("apply", text, more, crash_at)
    }

    fn ok(&self, output: &Output) -> String {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout.clone()).unwrap()
    }

    fn refused(&self, output: &Output, word: &str) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(word), "{said}");
    }

    /// Every file and directory but apply's own: path, mode and content.
    fn tree(&self) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.root()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.ends_with("var/lib/lxmesh-gen") {
                    continue;
                }
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                let bytes = path.is_file().then(|| fs::read(&path).unwrap());
                if path.is_dir() {
                    open.push(path.clone());
                }
                found.insert(
                    path.strip_prefix(self.root()).unwrap().into(),
                    (mode, bytes),
                );
            }
        }
        found
    }

    fn state(&self) -> PathBuf {
        self.root().join("var/lib/lxmesh-gen")
    }

    fn is_settled(&self) -> bool {
        !self.state().join("journal.json").exists()
    }
}

/// The trees of a host with OLD and with the new file.
fn old_and_new() -> (Tree, Tree) {
    let host = Host::new();
    let old = host.tree();
    host.ok(&host.apply(&new(), &[], None));
    (old, host.tree())
}

type Tree = BTreeMap<PathBuf, (u32, Option<Vec<u8>>)>;

#[test]
fn what_is_applied_is_there_and_the_second_time_nothing_is_touched() {
    let host = Host::new();
    let before = host.tree();
    let said = host.ok(&host.apply(OLD, &[], None));
    assert_eq!(said, "nothing to do\n");
    assert_eq!(host.tree(), before);
    let frr = host.root().join("etc/frr/frr.conf");
    let written = fs::metadata(&frr).unwrap().modified().unwrap();
    host.ok(&host.apply(OLD, &[], None));
    assert_eq!(fs::metadata(&frr).unwrap().modified().unwrap(), written);
    assert!(host.is_settled());
    assert_eq!(
        fs::metadata(host.state()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn killed_at_any_step_rollback_leads_to_the_old_or_the_new_state() {
    let (old, new_tree) = old_and_new();
    let mut kept = 0;
    let mut step = 1;
    loop {
        let host = Host::new();
        let output = host.apply(&new(), &[], Some(step));
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.signal(), Some(9), "step {step}: {output:?}");
        host.ok(&host.run(&["rollback"], None));
        let tree = host.tree();
        if tree == new_tree {
            kept += 1;
        } else {
            assert_eq!(kept, 0, "step {step}: once kept, always kept");
            assert_eq!(tree, old, "step {step}");
        }
        assert!(host.is_settled(), "step {step}");
        step += 1;
    }
    assert!(step > 10, "only {step} steps: the places to die are gone");
    assert!(kept > 0, "the last steps come after it was kept");
}

#[test]
fn killed_at_any_step_the_next_apply_leads_to_its_state() {
    let (_, new_tree) = old_and_new();
    for step in 1.. {
        let host = Host::new();
        let output = host.apply(&new(), &[], Some(step));
        let done = output.status.success();
        host.ok(&host.apply(&new(), &[], None));
        assert_eq!(host.tree(), new_tree, "step {step}");
        assert!(host.is_settled(), "step {step}");
        if done {
            break;
        }
    }
}

#[test]
fn a_rollback_killed_at_any_step_is_finished_by_the_next_one() {
    let (old, _) = old_and_new();
    // A death in the middle of the files.
    for step in 1.. {
        let host = Host::new();
        let output = host.apply(&new(), &[], Some(8));
        assert_eq!(output.status.signal(), Some(9));
        assert_ne!(host.tree(), old);
        let output = host.run(&["rollback", "--at-boot"], Some(step));
        host.ok(&host.run(&["rollback", "--at-boot"], None));
        assert_eq!(host.tree(), old, "step {step}");
        if output.status.success() {
            assert!(step > 5, "only {step} steps");
            break;
        }
    }
}

#[test]
fn an_apply_that_waits_is_kept_by_an_answer_and_undone_without() {
    let (old, new_tree) = old_and_new();
    let host = Host::new();
    let said = host.ok(&host.apply(&new(), &["--confirm", "60"], None));
    assert!(said.contains("`lxmesh-gen confirm` within 60 s"), "{said}");
    host.refused(&host.apply(OLD, &[], None), "waits for an answer");
    host.ok(&host.run(&["confirm"], None));
    assert_eq!(host.tree(), new_tree);
    host.refused(&host.run(&["confirm"], None), "no apply to confirm");

    let host = Host::new();
    host.ok(&host.apply(&new(), &["--confirm", "60"], None));
    host.ok(&host.run(&["rollback"], None));
    assert_eq!(host.tree(), old);

    let host = Host::new();
    host.ok(&host.apply(&new(), &["--confirm", "5"], None));
    // Longer than that; how much longer does not matter.
    thread::sleep(Duration::from_secs(7));
    host.refused(&host.run(&["confirm"], None), "no apply to confirm");
    host.ok(&host.run(&["rollback"], None));
    assert_eq!(host.tree(), old);
    host.ok(&host.run(&["rollback"], None));
}

#[test]
fn another_boot_is_after_every_deadline() {
    let (old, _) = old_and_new();
    let host = Host::new();
    host.ok(&host.apply(&new(), &["--confirm", "600"], None));
    let path = host.state().join("journal.json");
    let text = fs::read_to_string(&path).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(&path, text.replace(boot.trim(), "another")).unwrap();
    host.ok(&host.run(&["rollback", "--at-boot"], None));
    assert_eq!(host.tree(), old);
}

#[test]
fn two_at_once_are_one_too_many() {
    let host = Host::new();
    let lock = fs::File::open(host.state().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    host.refused(&host.apply(&new(), &[], None), "another lxmesh-gen");
    drop(lock);
    host.ok(&host.apply(&new(), &[], None));
}

#[test]
fn a_foreign_file_is_refused_with_a_diff_until_it_is_adopted() {
    let host = Host::new();
    let before = host.tree();
    host.write("etc/frr/frr.conf", "! mine\n");
    let output = host.apply(&new(), &[], None);
    host.refused(&output, "will not overwrite /etc/frr/frr.conf");
    host.refused(&output, "\n-! mine\n");
    let adopt = ["/etc/frr/frr.conf"];
    host.refused(
        &host.on("adopt", &new(), &["/etc/motd"], None),
        "none of the files",
    );
    host.ok(&host.on("adopt", &new(), &adopt, None));
    let kept = host.root().join("etc/frr/frr.conf.before-lxmesh");
    assert_eq!(fs::read_to_string(kept).unwrap(), "! mine\n");
    host.ok(&host.apply(&new(), &[], None));
    host.ok(&host.apply(OLD, &[], None));
    let path = PathBuf::from("etc/frr/frr.conf");
    assert_eq!(host.tree()[&path].1, before[&path].1);
}

#[test]
fn a_place_that_cannot_be_written_leaves_everything_as_it_was() {
    let host = Host::new();
    // Where a directory has to be.
    host.write("etc/blocked", "");
    let output = host.apply(&new(), &[], None);
    host.ok(&output);
    let host = Host::new();
    let before = host.tree();
    fs::create_dir_all(
        host.root()
            .join("etc/systemd/network/10-lxmesh-svi-new.netdev"),
    )
    .unwrap();
    host.refused(&host.apply(&new(), &[], None), "is not a regular file");
    fs::remove_dir(
        host.root()
            .join("etc/systemd/network/10-lxmesh-svi-new.netdev"),
    )
    .unwrap();
    assert_eq!(host.tree(), before);
}

#[test]
fn plan_and_diff_say_what_apply_would_do_and_change_nothing() {
    let host = Host::new();
    let before = host.tree();
    let planned = host.on("plan", &new(), &[], None);
    assert_eq!(planned.status.code(), Some(2), "{planned:?}");
    let plan = String::from_utf8(planned.stdout).unwrap();
    for part in [
        "cost: brief outage\n",
        "the AS number changes from 64500 to 64501",
        "  create   /etc/systemd/network/10-lxmesh-vxlan-new.netdev\n",
        "  remove   /etc/systemd/network/10-lxmesh-vxlan-old.netdev\n",
        "  replace  /etc/frr/frr.conf\n",
        "  delete vxlan-old\n",
    ] {
        assert!(plan.contains(part), "{part} is missing:\n{plan}");
    }
    let diff = host.ok(&host.on("diff", &new(), &[], None));
    for part in [
        "-router bgp 64500\n+router bgp 64501\n",
        "--- /dev/null\n+++ /etc/systemd/network/10-lxmesh-svi-new.netdev\n",
    ] {
        assert!(diff.contains(part), "{part} is missing:\n{diff}");
    }
    assert_eq!(host.ok(&host.on("plan", OLD, &[], None)), "nothing to do\n");
    assert_eq!(host.ok(&host.on("diff", OLD, &[], None)), "");
    assert_eq!(host.tree(), before);
}

#[test]
fn lines_for_frr_of_the_operator_are_part_of_its_file() {
    let host = Host::new();
    host.write(
        "etc/lxmesh/extra/frr.conf",
        "ip prefix-list mine permit any\n",
    );
    host.ok(&host.apply(OLD, &[], None));
    let conf = fs::read_to_string(host.root().join("etc/frr/frr.conf")).unwrap();
    assert!(
        conf.ends_with("! From /etc/lxmesh/extra/frr.conf:\nip prefix-list mine permit any\n"),
        "{conf}"
    );
    assert_eq!(host.ok(&host.on("plan", OLD, &[], None)), "nothing to do\n");
}

#[test]
fn a_daemon_that_the_administrator_runs_is_not_turned_off_without_a_word() {
    let host = Host::new();
    let daemons = || fs::read_to_string(host.root().join("etc/frr/daemons")).unwrap();
    let theirs = "bgpd=no\nospfd=yes\n";
    host.write("etc/frr/daemons", theirs);
    let output = host.apply(OLD, &[], None);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "-ospfd=yes\n",
        "; lines of your own for FRR go to /etc/lxmesh/extra/frr.conf and /etc/lxmesh/extra/frr-daemons",
    ] {
        assert!(said.contains(part), "{part} is missing:\n{said}");
    }
    assert_eq!(daemons(), theirs);

    // The remedy.
    host.write("etc/lxmesh/extra/frr-daemons", "ospfd=yes\n");
    fs::remove_file(host.root().join("etc/frr/daemons")).unwrap();
    host.ok(&host.apply(OLD, &[], None));
    assert!(daemons().contains("\nbgpd=yes\n"), "{}", daemons());
    let end = "# From /etc/lxmesh/extra/frr-daemons:\nospfd=yes\n";
    assert!(daemons().ends_with(end), "{}", daemons());

    // What the lines for frr.conf need is said before these, which have the last word.
    host.write("etc/lxmesh/extra/frr.conf", "router isis x\n");
    host.ok(&host.apply(OLD, &[], None));
    let end = format!(
        "# Needed by /etc/lxmesh/extra/frr.conf:\nisisd=yes\nisisd_options=\"-A 127.0.0.1\"\n{end}"
    );
    assert!(daemons().ends_with(&end), "{}", daemons());
    assert_eq!(host.ok(&host.on("plan", OLD, &[], None)), "nothing to do\n");
}

#[test]
fn init_and_import_write_files_that_pass_the_check() {
    let directory = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_lxmesh-gen"))
            .args(words)
            .output()
            .unwrap()
    };
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_string();
    let (made, imported, yaml) = (at("host.toml"), at("imported.toml"), at("agent.yaml"));
    fs::write(
        &yaml,
        "svi:\n- name: svi-vpc\n  multicast: on\nnetlink:\n  table: mine\n",
    )
    .unwrap();
    assert!(run(&["init", &made]).status.success());
    let output = run(&["init", &made]);
    assert_eq!(output.status.code(), Some(1), "it is there already");
    let output = run(&["import", &yaml, "--output", &imported]);
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(
        notes.contains("agent.yaml:5:3: netlink.table: has no equal"),
        "{notes}"
    );
    for file in [&made, &imported] {
        let output = run(&["check", file]);
        assert!(output.status.success(), "{output:?}");
    }
    let text = fs::read_to_string(Path::new(&imported)).unwrap();
    assert!(text.contains("multicast = true"), "{text}");
}

#[test]
fn graph_and_completions_print() {
    let fleet =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/golden/fleets/lab/host.toml");
    let run = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lxmesh-gen"))
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let svg = run(&["graph", fleet.to_str().unwrap()]);
    assert!(
        svg.starts_with("<svg ") && svg.contains("vpc: VNI 100"),
        "{svg}"
    );
    let mermaid = run(&["graph", fleet.to_str().unwrap(), "--format", "mermaid"]);
    assert!(
        mermaid.contains("flowchart TB") && mermaid.contains("198.51.100.101"),
        "{mermaid}"
    );
    let routers =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/golden/fleets/routers/host.toml");
    let told = "BGP: host routes of vpc, amber";
    let svg = run(&["graph", routers.to_str().unwrap()]);
    assert!(svg.contains(told) && svg.contains("AS 64511"), "{svg}");
    let mermaid = run(&["graph", routers.to_str().unwrap(), "--format", "mermaid"]);
    let arrow = format!("networks -->|\"{told}\"| routers\n");
    assert!(mermaid.contains(&arrow), "{mermaid}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("rollback"));
    }
}
