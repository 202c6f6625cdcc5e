//! Packing: several rows in one, so that little of a batch is padding.

use std::collections::BTreeMap;

use super::encode::Row;

/// Lengths grouped into packs of at most `capacity`: each pack takes the largest that still fits, again and again.
/// Lengths above `capacity` are left out.
pub fn greedy_knapsack(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut left: Vec<usize> =
        lengths.iter().copied().filter(|length| *length <= capacity).collect();
    left.sort_unstable();
    let mut packs = Vec::new();
    while !left.is_empty() {
        let mut pack = Vec::new();
        let mut room = capacity;
        loop {
            let fitting = left.partition_point(|length| *length <= room);
            if fitting == 0 {
                break;
            }
            let length = left.remove(fitting - 1);
            room -= length;
            pack.push(length);
        }
        packs.push(pack);
    }
    packs
}

/// One batch of rows as packs of at most `capacity` tokens, each to be padded to `capacity + 1`. Also how many rows
/// were too long. Of rows with equal length the last goes first, as in the reference.
pub fn pack(rows: Vec<Row>, capacity: usize, neat: bool) -> (Vec<Row>, u64) {
    let mut by_length: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    let mut lengths = Vec::with_capacity(rows.len());
    let mut too_long = 0;
    for row in rows {
        let length = row.input_ids.len();
        if length > capacity {
            too_long += 1;
            continue;
        }
        lengths.push(length);
        by_length.entry(length).or_default().push(row);
    }
    let packs = greedy_knapsack(&lengths, capacity).into_iter().map(|pack| {
        let mut packed = Row { neat, ..Row::default() };
        for row in pack.iter().filter_map(|length| by_length.get_mut(length)?.pop()) {
            packed.segments.push(row.input_ids.len());
            packed.input_ids.extend(row.input_ids);
            packed.labels.extend(row.labels);
        }
        packed.padding = capacity + 1 - packed.input_ids.len();
        packed
    });
    (packs.collect(), too_long)
}

/// Texts run together and cut into blocks of `size`; also how many tokens at the end were left over. `bos` replaces
/// the first token of each block.
pub fn blocks(texts: &[Vec<u32>], size: usize, bos: Option<u32>) -> (Vec<Vec<u32>>, u64) {
    if size == 0 {
        return (Vec::new(), 0);
    }
    let ids = texts.concat();
    let blocks = ids.chunks_exact(size).map(|block| {
        let mut block = block.to_vec();
        if let (Some(bos), Some(first)) = (bos, block.first_mut()) {
            *first = bos;
        }
        block
    });
    (blocks.collect(), (ids.len() % size) as u64)
}
