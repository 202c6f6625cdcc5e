//! Interleaving and shuffling of rows whose number is not known: as `datasets` does it.

use std::collections::VecDeque;

use super::super::error::DataError;
use super::{Mix, Pcg64};

/// Numbers that numpy draws at a time; what is left of them is lost when a buffer ends.
const BLOCK: usize = 1000;

/// Which dataset gives the next row, until the strategy's end.
#[derive(Clone)]
pub struct Turns {
    strategy: Mix,
    /// The shares added up to each dataset; they take turns where there are none.
    cumulative: Vec<f64>,
    rng: Pcg64,
    next: usize,
    exhausted: Vec<bool>,
}

impl Turns {
    /// The turns of `count` datasets. With probabilities a dataset is drawn for each place, from
    /// `numpy.random.default_rng(seed).choice`.
    ///
    /// # Errors
    /// When there are not as many probabilities as datasets, they do not sum to 1, or a dataset would
    /// never be exhausted.
    pub fn new(
        count: usize,
        strategy: Mix,
        probabilities: Option<&[f64]>,
        seed: u64,
    ) -> Result<Self, DataError> {
        let p = probabilities.unwrap_or_default();
        if probabilities.is_some() {
            check(count, strategy, p)?;
        }
        let mut cumulative: Vec<f64> = p
            .iter()
            .scan(0.0, |sum, x| {
                *sum += x;
                Some(*sum)
            })
            .collect();
        let last = cumulative.last().copied().unwrap_or(1.0);
        cumulative.iter_mut().for_each(|x| *x /= last);
        let exhausted = vec![false; count];
        Ok(Self { strategy, cumulative, rng: Pcg64::new(seed), next: 0, exhausted })
    }

    /// All rows of this dataset have been given; it begins anew where the strategy goes on.
    pub fn exhausted(&mut self, dataset: usize) {
        self.exhausted[dataset] = true;
    }

    fn choose(&mut self) -> usize {
        let last = self.exhausted.len() - 1;
        if self.cumulative.is_empty() {
            let chosen = self.next;
            self.next = if chosen == last { 0 } else { chosen + 1 };
            return chosen;
        }
        let u = self.rng.next_f64();
        self.cumulative.partition_point(|x| *x <= u).min(last)
    }
}

impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let over = match self.strategy {
            Mix::InterleaveUnder => self.exhausted.iter().any(|e| *e),
            _ => self.exhausted.iter().all(|e| *e),
        };
        if over {
            return None;
        }
        loop {
            let chosen = self.choose();
            if self.strategy != Mix::InterleaveOnce || !self.exhausted[chosen] {
                return Some(chosen);
            }
        }
    }
}

fn check(count: usize, strategy: Mix, p: &[f64]) -> Result<(), DataError> {
    if p.len() != count {
        return Err(DataError::invalid(
            "The length of dataset and interleave probs should be identical.",
        ));
    }
    let sum: f64 = p.iter().sum();
    if p.iter().any(|x| !(0.0..=1.0).contains(x)) || (sum - 1.0).abs() > 1e-8 {
        return Err(DataError::invalid(format!(
            "interleave_probs must be in [0, 1] and sum to 1, they sum to {sum}"
        )));
    }
    let never = p.iter().position(|x| *x == 0.0).filter(|_| strategy != Mix::InterleaveUnder);
    never.map_or(Ok(()), |dataset| {
        Err(DataError::invalid(format!(
            "interleave_probs: dataset number {} has probability 0 and would never be exhausted",
            dataset + 1
        )))
    })
}

/// A buffer out of which rows come at random while others go in.
pub struct Buffer<T> {
    size: usize,
    rng: Pcg64,
    places: VecDeque<usize>,
    held: Vec<T>,
    /// The shuffled rest, once the rows have ended.
    rest: Option<std::vec::IntoIter<T>>,
}

impl<T> Buffer<T> {
    /// A buffer of `size` rows for one pass over the data.
    pub fn new(size: usize, seed: u64, epoch: u64) -> Self {
        let mut rng = Pcg64::new(seed);
        if epoch > 0 {
            // numpy: integers(0, 1 << 63) - epoch, brought back above 0.
            rng = Pcg64::new((rng.next_u64() >> 1).wrapping_sub(epoch) & (u64::MAX >> 1));
        }
        Self { size: size.max(1), rng, places: VecDeque::new(), held: Vec::new(), rest: None }
    }

    /// Takes a row; gives one where the buffer is full.
    pub fn push(&mut self, row: T) -> Option<T> {
        if self.held.len() < self.size {
            self.held.push(row);
            return None;
        }
        let place = self.place();
        Some(std::mem::replace(&mut self.held[place], row))
    }

    /// Gives the rows that are left, in random order.
    pub fn drain(&mut self) -> Option<T> {
        if self.rest.is_none() {
            for i in (1..self.held.len()).rev() {
                let j = self.rng.masked_below_or_equal(i as u64) as usize;
                self.held.swap(i, j);
            }
            self.rest = Some(std::mem::take(&mut self.held).into_iter());
        }
        self.rest.as_mut()?.next()
    }

    fn place(&mut self) -> usize {
        if self.places.is_empty() {
            let (rng, size) = (&mut self.rng, self.size as u32);
            self.places.extend((0..BLOCK).map(|_| rng.lemire(size) as usize));
        }
        self.places.pop_front().unwrap_or(0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn shuffled(n: usize, size: usize, seed: u64, epoch: u64) -> Vec<usize> {
        let mut buffer = Buffer::new(size, seed, epoch);
        let mut out: Vec<usize> = (0..n).filter_map(|row| buffer.push(row)).collect();
        out.extend(std::iter::from_fn(|| buffer.drain()));
        out
    }

    /// Recorded from datasets 4.0: `IterableDataset.shuffle(seed, buffer_size)` after `set_epoch`.
    #[test]
    fn buffers_are_the_references() {
        let check = |n, size, seed, epoch, expected: &[usize]| {
            assert_eq!(shuffled(n, size, seed, epoch), expected, "{n} {size} {seed} {epoch}");
        };
        let first = [0, 3, 6, 2, 8, 4, 5, 7, 1, 11, 9, 10, 12, 17, 18, 19, 13, 14, 16, 15];
        check(20, 5, 42, 0, &first);
        let second = [3, 1, 6, 5, 7, 9, 8, 4, 11, 12, 14, 0, 2, 17, 15, 16, 10, 19, 18, 13];
        check(20, 5, 42, 1, &second);
        check(7, 16, 0, 0, &[2, 4, 3, 6, 5, 0, 1]);
        check(7, 16, 0, 1, &[0, 5, 1, 6, 3, 4, 2]);
        check(9, 1, 7, 0, &[0, 1, 2, 3, 4, 5, 6, 7, 8]);
        for (epoch, expected) in [(0, 309_087), (1, 309_135)] {
            let order = shuffled(2500, 3, 42, epoch);
            let sum: usize = order.iter().enumerate().map(|(k, v)| (k + 1) * v).sum();
            assert_eq!(sum % 1_000_003, expected);
        }
    }

    /// Recorded from datasets 5.2: `interleave_datasets` of iterable datasets with seed 42.
    #[test]
    fn turns_are_the_references() {
        use Mix::{InterleaveOnce, InterleaveOver, InterleaveUnder};
        let check = |lengths: &[usize], strategy, p: Option<&[f64]>, expected: &[usize]| {
            let mut turns = Turns::new(lengths.len(), strategy, p, 42).unwrap();
            let mut next = vec![0; lengths.len()];
            let mut order = Vec::new();
            while let Some(d) = turns.next() {
                order.push(100 * d + next[d]);
                next[d] += 1;
                if next[d] == lengths[d] {
                    turns.exhausted(d);
                    next[d] = 0;
                }
            }
            assert_eq!(order, expected, "{lengths:?} {strategy:?} {p:?}");
        };
        let three = [3, 4, 5];
        check(&three, InterleaveUnder, None, &[0, 100, 200, 1, 101, 201, 2]);
        check(
            &three,
            InterleaveOver,
            None,
            &[0, 100, 200, 1, 101, 201, 2, 102, 202, 0, 103, 203, 1, 100, 204],
        );
        check(
            &three,
            InterleaveOnce,
            None,
            &[0, 100, 200, 1, 101, 201, 2, 102, 202, 103, 203, 204],
        );
        let p = Some(&[0.5, 0.3, 0.2][..]);
        check(&three, InterleaveUnder, p, &[100, 0, 200, 101, 1, 201, 102, 103]);
        let over = [100, 0, 200, 101, 1, 201, 102, 103, 2, 0, 1, 202, 100, 203, 2, 0, 101, 1, 204];
        check(&three, InterleaveOver, p, &over);
        let once = [100, 0, 200, 101, 1, 201, 102, 103, 2, 202, 203, 204];
        check(&three, InterleaveOnce, p, &once);
        let p = Some(&[0.7, 0.3][..]);
        check(&[6, 2], InterleaveOver, p, &[100, 0, 101, 1, 2, 100, 101, 100, 3, 4, 5]);
        check(&[6, 2], InterleaveUnder, p, &[100, 0, 101]);
        for (p, part) in [
            (&[0.5][..], "identical"),
            (&[0.5, 0.6], "sum to 1"),
            (&[1.0, 0.0], "never be exhausted"),
        ] {
            let error = Turns::new(2, InterleaveOver, Some(p), 42).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
