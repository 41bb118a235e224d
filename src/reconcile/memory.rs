//! What the allocator keeps of memory that is free.

/// From this size on, a buffer is a mapping of its own and goes back to the kernel when it is
/// freed: listings of LXD and dumps of the kernel, which are there for a moment once a minute.
/// glibc would raise its threshold to the first such buffer's size, keep that in the heap, and
/// let small things grow behind it: 3 MiB with a thousand NICs.
const MAPPED_FROM_BYTES: libc::c_int = 256 * 1024;

/// To be called once, early. Does nothing where the C library has no such call.
pub fn return_large_buffers() {
    // SAFETY: mallopt(3) takes plain numbers; an allocator that does not know them says so.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
    }
}
