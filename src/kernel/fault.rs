//! Where a test can kill the agent: before everything that it writes. Without the feature
//! `test-hooks` there is no such place.

/// A place before something is written. If the file that `LXMESH_TEST_CRASH_FILE` names holds a
/// number, it is counted down, and at 1 the process ends as kill -9 does. A file, so that a test
/// can let an agent come to rest first.
pub fn point() {
    #[cfg(feature = "test-hooks")]
    if let Some((file, left)) = hooks::armed() {
        hooks::count(&file, left);
    }
}

/// Whether a test counts: then what goes to the kernel as one batch is written piece by piece.
pub fn counts() -> bool {
    #[cfg(feature = "test-hooks")]
    return hooks::armed().is_some();
    #[cfg(not(feature = "test-hooks"))]
    false
}

#[cfg(feature = "test-hooks")]
mod hooks {
    use std::path::{Path, PathBuf};

    pub fn armed() -> Option<(PathBuf, u32)> {
        let file = PathBuf::from(std::env::var_os("LXMESH_TEST_CRASH_FILE")?);
        let left = std::fs::read_to_string(&file).ok()?.parse().ok()?;
        Some((file, left))
    }

    pub fn count(file: &Path, left: u32) {
        if left <= 1 {
            let own = rustix::process::getpid();
            let killed = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            killed.expect("a process may kill itself");
        }
        let text = (left - 1).to_string();
        crate::kernel::files::write_atomic(file, text.as_bytes(), 0o644)
            .expect("the test's directory can be written");
    }
}
