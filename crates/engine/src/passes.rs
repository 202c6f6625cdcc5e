//! Which rows of a step are computed together.
//!
//! A step's loss is a sum over all of its labels, divided by their number, so its rows may be computed in any
//! parts. A micro-batch says how much memory a part may take; where a step has several, of few tokens, their rows
//! share fewer passes: weights and gradients go through the CPU's caches once a pass, and products of more rows
//! are faster. A single pass for all rows may keep more than the largest micro-batch does, since it needs no
//! gradients beforehand ([`Grads::begin`](crate::model::store::Grads::begin)), and where that is not enough it may
//! be worth to compute some layers again.

use crate::model::decoder::Keep;

/// Tokens that one could train in the time which a pass costs beside its tokens, because weights and gradients go
/// through memory once more. Measured with SmolLM2-135M, steps of 1,650 tokens, on two cores: one pass instead of
/// four is 1.17 times as fast in f32, which makes 99 tokens a pass, and 1.20 times in bf16, which makes 118. How
/// large a model is cancels out: both costs grow with it.
const PASS: f64 = 100.0;

/// The share of a step's products that are the layers', and not the head's.
const LAYERS: f64 = 0.9;

/// How a step is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passes {
    /// The rows of each pass.
    pub rows: Vec<Vec<usize>>,
    /// What the layers keep between forward and backward.
    pub keep: Keep,
}

/// All rows of a step in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct One {
    /// They.
    pub rows: Vec<usize>,
    /// Their tokens.
    pub tokens: usize,
    /// What the layers have room to keep.
    pub keep: Keep,
    /// The share of the layers that must then be computed again.
    pub again: f64,
    /// The share of the parameters that are trained.
    pub trained: f64,
}

impl Passes {
    /// These passes, or the one, if it is faster.
    #[must_use]
    pub fn or(self, one: One) -> Self {
        // A product forward, one for the input's gradient, and one for the weight's where it is trained; of a weight
        // two readings, and of a gradient reading and writing.
        let products = 2.0 + one.trained;
        let pass = PASS * (1.0 + one.trained) / 2.0 * 3.0 / products;
        let saved = pass * (self.rows.len() as f64 - 1.0);
        if one.again * LAYERS / products * one.tokens as f64 >= saved {
            return self;
        }
        Self { rows: vec![one.rows], keep: one.keep }
    }
}

/// The rows of `micro_batches` in as few parts as hold at most `room` tokens each, or as many as the largest of
/// the micro-batches has, of about as many tokens each. They depend on the rows' lengths alone.
#[must_use]
pub fn of(
    micro_batches: &[Vec<usize>],
    length: impl Fn(usize) -> usize,
    room: usize,
) -> Vec<Vec<usize>> {
    let tokens = |rows: &Vec<usize>| rows.iter().map(|row| length(*row)).sum::<usize>();
    let room = micro_batches.iter().map(tokens).max().unwrap_or(0).max(room);
    let all: usize = micro_batches.iter().map(tokens).sum();
    let fewest = all.div_ceil(room.max(1)).max(1);
    let rows = micro_batches.concat();
    let found = (fewest..micro_batches.len())
        .map(|count| share_out(&rows, &length, count))
        .find(|parts| parts.iter().all(|part| tokens(part) <= room));
    found.unwrap_or_else(|| micro_batches.to_vec())
}

/// The longest row first, each to the part that has the fewest tokens yet; rows of a part stay in order.
fn share_out(rows: &[usize], length: impl Fn(usize) -> usize, count: usize) -> Vec<Vec<usize>> {
    let mut longest_first: Vec<usize> = (0..rows.len()).collect();
    longest_first.sort_by_key(|place| std::cmp::Reverse(length(rows[*place])));
    let mut parts = vec![(0, Vec::new()); count];
    for place in longest_first {
        if let Some((tokens, places)) = parts.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += length(rows[place]);
            places.push(place);
        }
    }
    let mut parts: Vec<Vec<usize>> = parts.into_iter().map(|(_, places)| places).collect();
    parts.iter_mut().for_each(|places| places.sort_unstable());
    parts.retain(|places| !places.is_empty());
    parts.sort_unstable();
    parts.into_iter().map(|places| places.into_iter().map(|place| rows[place]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are numbered as they come; the parts that they are computed in.
    fn check(micro_batches: &[&[usize]], room: usize, expected: &[&[usize]]) {
        let lengths = micro_batches.concat();
        let mut next = 0..;
        let numbered: Vec<Vec<usize>> =
            micro_batches.iter().map(|rows| next.by_ref().take(rows.len()).collect()).collect();
        let got = of(&numbered, |row| lengths[row], room);
        assert_eq!(got, expected, "{micro_batches:?} in {room}");
    }

    #[test]
    fn rows_share_passes_where_the_largest_micro_batch_leaves_room() {
        // nothing to gain: one, equal ones, one larger than the others together allow
        check(&[&[5, 3]], 0, &[&[0, 1]]);
        check(&[&[5], &[5]], 0, &[&[0], &[1]]);
        check(&[&[5], &[1]], 0, &[&[0], &[1]]);
        // the largest has 8; 14 tokens take two passes, of 7 each
        check(&[&[4, 4], &[2, 1], &[1, 2]], 0, &[&[0, 2, 3], &[1, 4, 5]]);
        // earlier steps had more
        check(&[&[4, 4], &[2, 1], &[1, 2]], 14, &[&[0, 1, 2, 3, 4, 5]]);
        check(&[&[4, 4], &[2, 1], &[1, 2]], 100, &[&[0, 1, 2, 3, 4, 5]]);
        // parts that do not come out even are not forced
        check(&[&[5], &[4], &[3], &[3]], 8, &[&[0, 3], &[1, 2]]);
        check(&[&[5], &[5], &[5]], 9, &[&[0], &[1], &[2]]);
        // a micro-batch without rows, or rows without tokens
        check(&[], 4, &[]);
        check(&[&[0], &[0]], 0, &[&[0, 1]]);
    }

    /// Whether eight rows in `passes` passes become one that computes `again` of the layers once more.
    fn merges(passes: usize, tokens: usize, again: f64, trained: f64) -> bool {
        let rows: Vec<usize> = (0..8).collect();
        let several = rows.chunks(8 / passes).map(<[usize]>::to_vec).collect();
        let several = Passes { rows: several, keep: Keep::Intermediates };
        let one = One { rows: rows.clone(), tokens, keep: Keep::Within(5), again, trained };
        let got = several.clone().or(one);
        assert!(got == several || got == Passes { rows: vec![rows], keep: Keep::Within(5) });
        got != several
    }

    #[test]
    fn one_pass_is_worth_some_layers_again() {
        for (passes, tokens, again, trained, expected) in [
            // nothing to gain, nothing to lose
            (1, 1000, 0.0, 1.0, false),
            (2, 100_000, 0.0, 1.0, true),
            // a pass is 100 tokens' worth where all is trained, and 75 where nearly nothing is; the forward pass
            // is 0.3 of a token's time, and 0.45
            (2, 1000, 0.3, 1.0, true),
            (2, 1000, 0.35, 1.0, false),
            (4, 1000, 0.95, 1.0, true),
            (2, 1000, 0.16, 0.0, true),
            (2, 1000, 0.17, 0.0, false),
        ] {
            let got = merges(passes, tokens, again, trained);
            assert_eq!(got, expected, "{passes} passes of {tokens}, {again}, {trained}");
        }
    }

    #[test]
    fn no_pass_is_larger_than_the_room_and_no_row_is_lost() {
        for seed in 0..200usize {
            let mut state = seed as u64 * 2 + 1;
            let mut draw = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as usize % below
            };
            let lengths: Vec<usize> = (0..24).map(|_| 1 + draw(500)).collect();
            let micro_batches: Vec<Vec<usize>> =
                (0..24).collect::<Vec<_>>().chunks(1 + seed % 5).map(<[_]>::to_vec).collect();
            let room = draw(1500);
            let tokens = |rows: &Vec<usize>| rows.iter().map(|row| lengths[*row]).sum::<usize>();
            let most = micro_batches.iter().map(tokens).max().unwrap_or(0).max(room);
            let parts = of(&micro_batches, |row| lengths[row], room);
            assert!(parts.len() <= micro_batches.len());
            assert!(parts.iter().all(|part| tokens(part) <= most), "{seed}");
            let mut rows = parts.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..24).collect::<Vec<_>>());
        }
    }
}
