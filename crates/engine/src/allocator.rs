//! The memory of a run: large blocks from one stretch of addresses, small ones from mimalloc.
//!
//! A run allocates the activations of every micro-batch anew, each time of other sizes. A general allocator
//! keeps them apart by size, so that what a short micro-batch leaves does not serve a long one; [`Blocks`]
//! does, and the pages stay with the process, where the system would have to clear each again.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;
use std::sync::{Mutex, OnceLock, PoisonError};

use blocks::{Blocks, GRAIN, Taken};
use memmap2::{MmapOptions, MmapRaw};
use mimalloc::MiMalloc;

mod blocks;

/// Bytes from which on a block is large.
const LARGE: usize = 128 << 10;

/// Addresses for large blocks; memory is only used where it is written.
const ADDRESSES: usize = 1 << 38;

/// mimalloc's option `purge_delay`: how long freed memory waits before the system gets it back.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

static REGION: OnceLock<Option<Region>> = OnceLock::new();

/// The process's allocator. It is mimalloc until [`keep_freed_memory`] is called.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// From now on, memory that is freed is kept for what is allocated next. A server, which lives for long and
/// needs much memory for a moment, does not ask for that.
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "a foreign function")]
    // SAFETY: sets one integer of mimalloc's options, which it may do at any time.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, -1);
    }
    REGION.get_or_init(Region::open);
}

/// Addresses, and which of them are taken.
struct Region {
    memory: MmapRaw,
    blocks: Mutex<Blocks>,
}

impl Region {
    /// `None` where the system does not give so many addresses: then mimalloc serves all.
    fn open() -> Option<Self> {
        let memory = MmapOptions::new().len(ADDRESSES).no_reserve_swap().map_anon().ok()?;
        // A system that has no huge pages says so, and works as well.
        #[cfg(target_os = "linux")]
        let _ = memory.advise(memmap2::Advice::HugePage);
        Some(Self { memory: memory.into(), blocks: Mutex::new(Blocks::new(ADDRESSES)) })
    }

    /// Where a block that the region gave out begins in it.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let at = block.addr().checked_sub(self.memory.as_mut_ptr().addr())?;
        (at < ADDRESSES).then_some(at)
    }

    /// A block of `layout`, and how many of its bytes are not zero for certain.
    fn take(&self, layout: Layout) -> Option<(NonNull<u8>, usize)> {
        if layout.size() < LARGE || layout.align() > GRAIN {
            return None;
        }
        let Taken { at, used } = self.blocks().take(layout.size())?;
        let block = NonNull::new(self.memory.as_mut_ptr().wrapping_add(at))?;
        Some((block, used.min(layout.size())))
    }

    /// The table; every change of it is whole before anything can panic.
    fn blocks(&self) -> std::sync::MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn region() -> Option<&'static Region> {
    REGION.get()?.as_ref()
}

#[expect(unsafe_code, reason = "the trait is")]
// SAFETY: a block lies in the region, where Blocks gives no part twice and its memory is never unmapped, or
// is mimalloc's, and goes back where it came from. The region's own table is of small blocks, which never
// come back here for its lock.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match region().and_then(|region| region.take(layout)) {
            Some((block, _)) => block.as_ptr(),
            // SAFETY: the caller's promise.
            None => unsafe { MiMalloc.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match region().and_then(|region| region.take(layout)) {
            Some((block, used)) => {
                // SAFETY: the block is at least as long, and nobody else's.
                unsafe { block.write_bytes(0, used) };
                block.as_ptr()
            }
            // SAFETY: the caller's promise.
            None => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match region().and_then(|region| Some((region, region.offset(block)?))) {
            Some((region, at)) => region.blocks().give(at, layout.size()),
            // SAFETY: it came from mimalloc, with this layout.
            None => unsafe { MiMalloc.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let ours = region().is_some_and(|region| size >= LARGE || region.offset(block).is_some());
        // SAFETY: the caller's promises; a block is moved by taking another, copying what fits, and giving
        // the first one back.
        unsafe {
            if !ours {
                return MiMalloc.realloc(block, layout, size);
            }
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn fill(len: usize) -> impl Iterator<Item = u8> {
        (0..len).map(|i| (i % 251) as u8)
    }

    /// Blocks of every size keep what is written into them when they are moved, and come cleared where asked.
    #[test]
    fn blocks_hold_what_is_written() {
        keep_freed_memory();
        for (size, next) in [(10, 100), (100, LARGE), (LARGE, 3 * LARGE), (5 * LARGE, 64)] {
            for align in [8, 64, 2 * GRAIN] {
                let layout = Layout::from_size_align(size, align).unwrap();
                let kept = size.min(next);
                #[expect(unsafe_code, reason = "what is tested takes pointers")]
                // SAFETY: each block is read and written within its size, and given back once, as it was taken.
                unsafe {
                    let block = Allocator.alloc_zeroed(layout);
                    let bytes = std::slice::from_raw_parts_mut(block, size);
                    assert!(bytes.iter().all(|byte| *byte == 0), "{size} bytes come cleared");
                    assert!(block.addr().is_multiple_of(align));
                    bytes.iter_mut().zip(fill(size)).for_each(|(to, from)| *to = from);
                    let block = Allocator.realloc(block, layout, next);
                    let bytes = std::slice::from_raw_parts(block, kept);
                    assert!(bytes.iter().copied().eq(fill(kept)), "{size} -> {next}");
                    Allocator.dealloc(block, Layout::from_size_align_unchecked(next, align));
                }
            }
        }
    }
}
