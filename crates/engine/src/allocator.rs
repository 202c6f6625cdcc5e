//! mimalloc, told how a run uses memory.

/// mimalloc's option `purge_delay`: how long freed memory waits before the system gets it back.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed memory for the next allocation rather than give it back to the system. A run allocates
/// the same activations in every micro-batch; given back in between, each page is faulted in and cleared
/// by the kernel again, a tenth of all time. The peak grows by 3 to 4 %, since what is kept does not always
/// fit what is asked for next. Nothing happens where another allocator is in use.
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "a foreign function")]
    // SAFETY: sets one integer of mimalloc's options, which it may do at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
}
