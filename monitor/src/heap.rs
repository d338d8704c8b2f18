//! The memory that the allocator keeps for later.

/// Gives back to the kernel what the allocator keeps of memory that was freed. Call it after something large that
/// does not come again: at its start the daemon reads the kernel's types and symbols, 20 MiB, which would stay its own
/// for as long as it runs.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only looks through lists that belong to the allocator, which locks them (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
