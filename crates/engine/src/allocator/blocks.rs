//! Which parts of one long stretch of addresses are taken.
//!
//! The lowest gap that is long enough is taken, and gaps that meet become one: what a micro-batch leaves
//! behind is one gap again, in which a longer or shorter one fits, and what stays for the whole run lies
//! at the bottom.
//! Source: Wilson et al., "Dynamic Storage Allocation: A Survey and Critical Review", 1995 (address-ordered
//! first fit).

use std::collections::BTreeMap;

/// What offsets and lengths are multiples of: a page.
pub const GRAIN: usize = 4096;

/// The parts of `len` bytes.
#[derive(Debug)]
pub struct Blocks {
    len: usize,
    /// Nothing at or above this offset has ever been taken.
    top: usize,
    /// Length of each gap below `top`, by its offset. No two meet.
    gaps: BTreeMap<usize, usize>,
}

/// A part that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Where it begins.
    pub at: usize,
    /// Bytes at its beginning that somebody had before; the system has cleared the rest.
    pub used: usize,
}

impl Blocks {
    /// `len` bytes, none of them taken.
    #[must_use]
    pub const fn new(len: usize) -> Self {
        Self { len, top: 0, gaps: BTreeMap::new() }
    }

    /// Takes `size` bytes; `None` where no gap is long enough.
    pub fn take(&mut self, size: usize) -> Option<Taken> {
        let size = size.checked_next_multiple_of(GRAIN)?;
        if let Some((&at, &gap)) = self.gaps.iter().find(|(_, gap)| **gap >= size) {
            self.gaps.remove(&at);
            if gap > size {
                self.gaps.insert(at + size, gap - size);
            }
            return Some(Taken { at, used: size });
        }
        let (at, used) = match self.gaps.last_key_value() {
            Some((&at, &gap)) if at + gap == self.top => (at, gap),
            _ => (self.top, 0),
        };
        let end = at.checked_add(size).filter(|end| *end <= self.len)?;
        if used > 0 {
            self.gaps.remove(&at);
        }
        self.top = end;
        Some(Taken { at, used })
    }

    /// Gives back the `size` bytes from `at` on, as they were taken.
    pub fn give(&mut self, at: usize, size: usize) {
        let (mut at, mut len) = (at, size.next_multiple_of(GRAIN));
        if let Some((&below, &gap)) = self.gaps.range(..at).next_back()
            && below + gap == at
        {
            self.gaps.remove(&below);
            (at, len) = (below, gap + len);
        }
        if let Some(above) = self.gaps.remove(&(at + len)) {
            len += above;
        }
        self.gaps.insert(at, len);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    const PAGES: usize = 64;

    /// Takes and gives at random beside a map of pages.
    #[test]
    fn parts_never_overlap_and_gaps_come_together() {
        for seed in 0..20 {
            let mut blocks = Blocks::new(PAGES * GRAIN);
            let mut pages = [false; PAGES];
            let mut ever = [false; PAGES];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for step in 0..400 {
                let random = Stream::new(seed, Purpose::InitWeights, step, 0).block(0);
                if random[0].is_multiple_of(2) && !held.is_empty() {
                    let (at, size) = held.swap_remove(random[1] as usize % held.len());
                    blocks.give(at, size);
                    pages[at / GRAIN..][..size.div_ceil(GRAIN)].fill(false);
                    continue;
                }
                let size = 1 + random[1] as usize % (9 * GRAIN);
                let count = size.div_ceil(GRAIN);
                let room = pages.windows(count).position(|window| !window.contains(&true));
                let taken = blocks.take(size);
                assert_eq!(taken.map(|taken| taken.at / GRAIN), room, "the lowest that fits");
                let Some(Taken { at, used }) = taken else { continue };
                let mine = at / GRAIN..at / GRAIN + count;
                assert!(mine.clone().skip(used / GRAIN).all(|page| !ever[page]), "cleared");
                pages[mine.clone()].fill(true);
                ever[mine].fill(true);
                held.push((at, size));
            }
            held.drain(..).for_each(|(at, size)| blocks.give(at, size));
            assert_eq!(blocks.take(PAGES * GRAIN).unwrap().at, 0, "one gap is left");
        }
    }

    #[test]
    fn what_does_not_fit_is_not_taken() {
        let mut blocks = Blocks::new(2 * GRAIN);
        assert_eq!(blocks.take(3 * GRAIN), None);
        assert_eq!(blocks.take(usize::MAX), None);
        assert_eq!(blocks.take(GRAIN), Some(Taken { at: 0, used: 0 }));
        assert_eq!(blocks.take(2 * GRAIN), None);
        blocks.give(0, GRAIN);
        // the gap and what lies above it
        assert_eq!(blocks.take(GRAIN + 1), Some(Taken { at: 0, used: GRAIN }));
    }
}
