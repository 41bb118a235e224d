//! Writing rendered files: only what is ours, all or nothing, twice harmless.

#![expect(
    clippy::disallowed_methods,
    reason = "nobody reads a test's files half written"
)]

use lxmesh::generate::write::{Fate, MANIFEST, WriteError, adopt, write};
use lxmesh::generate::{MARKER, OutputFile};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn output(path: &str, text: &str) -> OutputFile {
    OutputFile {
        path: path.into(),
        mode: 0o640,
        contents: format!("# {MARKER}\n{text}\n"),
    }
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn at(root: &TempDir, path: &str) -> PathBuf {
    root.path().join(path.trim_start_matches('/'))
}

fn put(root: &TempDir, path: &str, text: &str) {
    let path = at(root, path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(root: &TempDir, path: &str) -> String {
    fs::read_to_string(at(root, path)).unwrap()
}

fn fates(root: &TempDir, outputs: &[OutputFile], force: bool) -> Vec<(String, Fate)> {
    let fates = write(root.path(), outputs, force).unwrap_or_else(|error| panic!("{error}"));
    fates
        .into_iter()
        .map(|(path, fate)| (path.display().to_string(), fate))
        .collect()
}

fn refused(root: &TempDir, outputs: &[OutputFile]) -> Vec<(PathBuf, &'static str)> {
    match write(root.path(), outputs, false).unwrap_err() {
        WriteError::Refused(all) => all
            .into_iter()
            .map(|refusal| (refusal.path, refusal.reason))
            .collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn files_are_made_with_their_directories_and_modes_and_the_second_time_nothing_changes() {
    let root = root();
    let outputs = [
        output("/etc/a/one.conf", "1"),
        output("/etc/b/two.conf", "2"),
    ];
    let made = fates(&root, &outputs, false);
    assert_eq!(made[0], ("/etc/a/one.conf".into(), Fate::Created));
    assert_eq!(read(&root, "/etc/a/one.conf"), outputs[0].contents);
    let mode = fs::metadata(at(&root, "/etc/b/two.conf"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    let manifest = read(&root, MANIFEST);
    let before = fs::metadata(at(&root, "/etc/a/one.conf"))
        .unwrap()
        .modified()
        .unwrap();
    assert!(
        fates(&root, &outputs, false)
            .iter()
            .all(|(_, fate)| *fate == Fate::Unchanged)
    );
    assert_eq!(read(&root, MANIFEST), manifest);
    assert_eq!(
        fs::metadata(at(&root, "/etc/a/one.conf"))
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
    let left_over = fs::read_dir(at(&root, "/etc/a")).unwrap().count();
    assert_eq!(left_over, 1, "no temporary file stays");
}

#[test]
fn our_own_unedited_files_are_replaced() {
    let root = root();
    fates(&root, &[output("/etc/one.conf", "1")], false);
    let fate = fates(&root, &[output("/etc/one.conf", "2")], false);
    assert_eq!(fate, [("/etc/one.conf".into(), Fate::Replaced)]);
    assert!(read(&root, "/etc/one.conf").ends_with("\n2\n"));
}

#[test]
fn foreign_and_edited_files_are_all_named_and_nothing_is_written() {
    let root = root();
    put(&root, "/etc/foreign.conf", "theirs\n");
    fates(&root, &[output("/etc/edited.conf", "1")], false);
    put(
        &root,
        "/etc/edited.conf",
        &format!("# {MARKER}\nmine now\n"),
    );
    fs::create_dir_all(at(&root, "/etc/directory.conf")).unwrap();
    symlink("/dev/null", at(&root, "/etc/link.conf")).unwrap();
    let outputs = [
        output("/etc/directory.conf", "1"),
        output("/etc/edited.conf", "2"),
        output("/etc/foreign.conf", "1"),
        output("/etc/link.conf", "1"),
        output("/etc/new.conf", "1"),
    ];
    assert_eq!(
        refused(&root, &outputs),
        [
            ("/etc/directory.conf".into(), "is not a regular file"),
            ("/etc/edited.conf".into(), "was edited by hand"),
            ("/etc/foreign.conf".into(), "was not written by lxmesh-gen"),
            ("/etc/link.conf".into(), "is not a regular file"),
        ]
    );
    assert!(!at(&root, "/etc/new.conf").exists());
    assert_eq!(read(&root, "/etc/foreign.conf"), "theirs\n");
}

#[test]
fn force_replaces_them_and_keeps_every_old_one() {
    let root = root();
    put(&root, "/etc/one.conf", "theirs\n");
    let fate = fates(&root, &[output("/etc/one.conf", "1")], true);
    assert_eq!(
        fate[0].1,
        Fate::Forced {
            kept: "/etc/one.conf.before-lxmesh".into()
        }
    );
    assert_eq!(read(&root, "/etc/one.conf.before-lxmesh"), "theirs\n");
    put(&root, "/etc/one.conf", "theirs again\n");
    fates(&root, &[output("/etc/one.conf", "1")], true);
    assert_eq!(read(&root, "/etc/one.conf.before-lxmesh"), "theirs\n");
    assert_eq!(
        read(&root, "/etc/one.conf.before-lxmesh.1"),
        "theirs again\n"
    );
    assert!(
        fates(&root, &[output("/etc/one.conf", "1")], true)
            .iter()
            .all(|(_, fate)| *fate == Fate::Unchanged)
    );
}

#[test]
fn what_was_there_before_a_file_that_is_closed_to_others_is_kept_closed() {
    let mode = |root: &TempDir, path: &str| {
        let metadata = fs::metadata(at(root, path)).unwrap();
        metadata.permissions().mode() & 0o7777
    };
    let open = OutputFile {
        mode: 0o644,
        ..output("/etc/open.conf", "1")
    };
    let outputs = [output("/etc/closed.conf", "1"), open];
    for by_force in [true, false] {
        let root = root();
        for path in ["/etc/closed.conf", "/etc/open.conf"] {
            put(&root, path, "neighbor 192.0.2.1 password theirs\n");
            fs::set_permissions(at(&root, path), fs::Permissions::from_mode(0o664)).unwrap();
            if !by_force {
                adopt(root.path(), &outputs, Path::new(path)).unwrap();
            }
        }
        fates(&root, &outputs, by_force);
        assert_eq!(mode(&root, "/etc/closed.conf.before-lxmesh"), 0o660);
        assert_eq!(mode(&root, "/etc/open.conf.before-lxmesh"), 0o664);
    }
}

#[test]
fn files_no_longer_rendered_are_removed_only_if_unedited() {
    let root = root();
    put(&root, "/etc/strange.conf", "theirs\n");
    let all = [
        output("/etc/edited.conf", "1"),
        output("/etc/gone.conf", "1"),
        output("/etc/kept.conf", "1"),
        output("/etc/stale.conf", "1"),
    ];
    fates(&root, &all, false);
    put(&root, "/etc/edited.conf", "mine now\n");
    fs::remove_file(at(&root, "/etc/gone.conf")).unwrap();
    assert_eq!(
        fates(&root, &all[2..3], false),
        [
            ("/etc/edited.conf".into(), Fate::Left),
            ("/etc/kept.conf".into(), Fate::Unchanged),
            ("/etc/stale.conf".into(), Fate::Removed),
        ]
    );
    assert!(!at(&root, "/etc/stale.conf").exists());
    assert_eq!(read(&root, "/etc/edited.conf"), "mine now\n");
    assert_eq!(read(&root, "/etc/strange.conf"), "theirs\n");
}

#[test]
fn a_configuration_file_as_its_debian_package_brought_it_is_nobodys_edit() {
    let root = root();
    put(
        &root,
        "/var/lib/dpkg/status",
        "Package: frr\nConffiles:\n /etc/frr/daemons 764efa883dda1e11db47671c4a3bbd9e\n /etc/frr/frr.conf 0\nDescription: x\n",
    );
    put(&root, "/etc/frr/daemons", "hi\n");
    let daemons = [output("/etc/frr/daemons", "1")];
    assert_eq!(
        fates(&root, &daemons, false),
        [("/etc/frr/daemons".into(), Fate::Replaced)]
    );
    put(&root, "/etc/frr/daemons", "hi!\n");
    assert_eq!(refused(&root, &daemons).len(), 1);
}

#[test]
fn killed_half_way_the_next_run_goes_on_from_old_and_new_files_alike() {
    let root = root();
    let old = [
        output("/etc/one.conf", "old"),
        output("/etc/two.conf", "old"),
    ];
    let new = [
        output("/etc/one.conf", "new"),
        output("/etc/two.conf", "new"),
    ];
    fates(&root, &old, false);
    fates(&root, &new, false);
    let done = read(&root, MANIFEST);
    // As between the two manifests: both contents are listed, one file is new, one still old.
    let mut during: serde_json::Value = serde_json::from_str(&done).unwrap();
    fates(&root, &old, false);
    let before: serde_json::Value = serde_json::from_str(&read(&root, MANIFEST)).unwrap();
    for path in ["/etc/one.conf", "/etc/two.conf"] {
        let both = [
            during["files"][path][0].clone(),
            before["files"][path][0].clone(),
        ];
        during["files"][path] = both.into_iter().collect();
    }
    put(&root, MANIFEST, &during.to_string());
    put(&root, "/etc/one.conf", &new[0].contents);
    let newest = [
        output("/etc/one.conf", "newest"),
        output("/etc/two.conf", "newest"),
    ];
    assert!(
        fates(&root, &newest, false)
            .iter()
            .all(|(_, fate)| *fate == Fate::Replaced)
    );
}

#[test]
fn a_broken_manifest_is_an_error_and_not_an_empty_one() {
    let root = root();
    put(&root, MANIFEST, "{");
    let error = write(root.path(), &[output("/etc/one.conf", "1")], false).unwrap_err();
    assert!(matches!(error, WriteError::Manifest { .. }));
    assert!(!at(&root, "/etc/one.conf").exists());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let root = root();
    put(&root, "/etc/systemd", "a file where a directory should be");
    let error = write(root.path(), &[output("/etc/systemd/x.conf", "1")], false).unwrap_err();
    assert!(
        matches!(&error, WriteError::Io { path, .. } if path.starts_with(Path::new(root.path())))
    );
    assert!(error.to_string().contains("/etc/systemd"), "{error}");
}
