//! Which rows of a step are computed together.
//!
//! A step's loss is a sum over all of its labels, divided by their number, so its rows may be computed in any
//! parts. A micro-batch says how much memory a part may take; where a step has several, of few tokens, their rows
//! share fewer passes: weights and gradients go through the CPU's caches once a pass, and products of more rows
//! are faster.

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
