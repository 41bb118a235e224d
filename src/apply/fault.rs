//! Where a test can kill an apply. Without the feature `test-hooks` there is no such place.

/// A place between two steps. With `LXMESH_TEST_CRASH_AT=N` the N-th one reached ends the process
/// as kill -9 does.
pub fn point() {
    #[cfg(feature = "test-hooks")]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        static REACHED: AtomicU32 = AtomicU32::new(1);
        let here = REACHED.fetch_add(1, Ordering::Relaxed).to_string();
        if std::env::var("LXMESH_TEST_CRASH_AT").is_ok_and(|at| at == here) {
            let own = rustix::process::getpid();
            let killed = rustix::process::kill_process(own, rustix::process::Signal::KILL);
            killed.expect("a process may kill itself");
        }
    }
}
