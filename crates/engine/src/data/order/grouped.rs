//! Rows of similar length side by side: transformers' `LengthGroupedSampler`.

use super::{Mt19937, shuffled};

/// The order of `epoch`: rows are permuted, cut into megabatches of up to 50 `batch`es, sorted in
/// each by falling length, and the longest row of all comes first. `batch` is the rows of one
/// optimiser step.
///
/// transformers draws from torch's global generator, where `seed` set it: one 64-bit number an
/// epoch for the loader, then the permutation. The epochs equal its own as long as nothing else
/// draws there (evaluations and dropout on a CPU do).
pub fn grouped_order(lengths: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut rng = Mt19937::new(seed as u32);
    let mut order = Vec::new();
    for _ in 0..=epoch {
        rng.next_u32();
        rng.next_u32();
        order = shuffled(lengths.len(), &mut rng);
    }
    let batches = (lengths.len() / (batch.max(1) * 4)).clamp(1, 50);
    let mega = batches * batch.max(1);
    // Stable, as Python's: rows of one length keep their order.
    order.chunks_mut(mega).for_each(|m| m.sort_by(|a, b| lengths[*b].cmp(&lengths[*a])));
    let firsts = (0..order.len()).step_by(mega);
    let longest =
        firsts.fold(0, |best, i| if lengths[order[i]] > lengths[order[best]] { i } else { best });
    if !order.is_empty() {
        order.swap(0, longest);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three epochs of transformers 5.6.0's Trainer with train_sampling_strategy group_by_length,
    /// batch 2 x 2, seed 42, as its collator saw the rows.
    #[test]
    fn three_epochs_are_the_trainers() {
        let lengths: Vec<usize> = (0..30).map(|i| (i * 37) % 23 + 2).collect();
        let want = [
            [
                18, 22, 20, 5, 26, 29, 19, 28, 8, 6, 14, 2, 21, 17, 25, 0, 27, 7, 15, 23, 13, 11,
                9, 4, 3, 24, 1, 10, 16, 12,
            ],
            [
                18, 19, 2, 5, 24, 9, 4, 12, 21, 6, 1, 28, 29, 27, 7, 10, 13, 16, 11, 15, 3, 14, 25,
                20, 8, 26, 17, 23, 22, 0,
            ],
            [
                18, 3, 2, 0, 21, 16, 11, 23, 13, 8, 10, 28, 26, 9, 15, 5, 29, 1, 12, 20, 6, 14, 27,
                22, 24, 19, 4, 7, 17, 25,
            ],
        ];
        for (epoch, want) in want.iter().enumerate() {
            assert_eq!(grouped_order(&lengths, 4, 42, epoch as u64), want, "epoch {epoch}");
        }
        assert!(grouped_order(&[], 4, 42, 0).is_empty());
        assert_eq!(grouped_order(&[7], 4, 42, 3), [0]);
    }
}
