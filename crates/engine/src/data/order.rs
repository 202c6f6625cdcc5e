//! Which row comes when: the orders the reference draws, from the same generators.
//!
//! Two generators of other people's design are repeated here exactly, because the order of rows is part of a loss
//! curve: torch's `randperm` on MT19937 orders the rows of an epoch, and numpy's PCG64 permutation splits off the
//! validation rows. numpy's older MT19937 `RandomState` draws `num_samples`. Nothing else in the engine may use them.

mod grouped;
mod mt19937;
mod pcg64;
mod turns;

pub use grouped::grouped_order;
pub use mt19937::Mt19937;
pub use pcg64::Pcg64;
pub use turns::{Buffer, Turns};

use super::error::DataError;

/// The order in which the `n` rows of one epoch are visited: torch's `randperm(n)` seeded with `seed + epoch`.
pub fn epoch_order(n: usize, seed: u64, epoch: u64) -> Vec<usize> {
    randperm(n, seed.wrapping_add(epoch))
}

/// `torch.randperm(n, generator=torch.Generator().manual_seed(seed))` on the CPU.
pub fn randperm(n: usize, seed: u64) -> Vec<usize> {
    shuffled(n, &mut Mt19937::new(seed as u32))
}

/// `torch.randperm(n)` with what a generator gives next.
fn shuffled(n: usize, rng: &mut Mt19937) -> Vec<usize> {
    /// torch changes its method at this length, where a 32-bit remainder would be visibly skewed.
    const LONG: usize = (u32::MAX / 20) as usize;
    let mut order: Vec<usize> = (0..n).collect();
    if n < LONG {
        for i in 0..n.saturating_sub(1) {
            let z = rng.next_u32() as usize % (n - i);
            order.swap(i, i + z);
        }
    } else {
        for i in 0..n {
            let wide = (u64::from(rng.next_u32()) << 32) | u64::from(rng.next_u32());
            let z = (wide % (i as u64 + 1)) as usize;
            order[i] = order[z];
            order[z] = i;
        }
    }
    order
}

/// `numpy.random.default_rng(seed).permutation(n)`.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = Pcg64::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = rng.masked_below_or_equal(i as u64) as usize;
        order.swap(i, j);
    }
    order
}

/// How many rows are held out for evaluation: a fraction of the rows, or a count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HoldOut {
    /// A fraction in (0, 1); the number of rows is rounded up.
    Fraction(f64),
    /// A number of rows.
    Rows(usize),
}

/// Below this, `val_size` means that nothing is held out.
pub const MIN_VAL_SIZE: f64 = 1e-6;

impl HoldOut {
    /// What `val_size` asks for: above 1 a number of rows; `None` for none.
    #[must_use]
    pub fn of(val_size: f64) -> Option<Self> {
        match val_size {
            size if size > 1.0 => Some(Self::Rows(size as usize)),
            size if size > MIN_VAL_SIZE => Some(Self::Fraction(size)),
            _ => None,
        }
    }

    /// How many of `n` rows that is; more than `n` where more are asked for.
    #[must_use]
    pub fn count(self, n: usize) -> usize {
        match self {
            Self::Fraction(fraction) => (fraction * n as f64).ceil() as usize,
            Self::Rows(rows) => rows,
        }
    }
}

/// Row numbers (train, validation) as `datasets.train_test_split(test_size, seed)` chooses them: of the permuted rows
/// the first `ceil(n * fraction)` are held out and all others are trained on, both in permuted order.
///
/// # Errors
/// When either side would be empty.
pub fn split(
    n: usize,
    hold_out: HoldOut,
    seed: u64,
) -> Result<(Vec<usize>, Vec<usize>), DataError> {
    let held = hold_out.count(n);
    if held == 0 || held >= n {
        return Err(DataError::invalid(format!(
            "val_size: {held} of the {n} rows would be held out, and at least one row must remain on each side"
        )));
    }
    let mut order = permutation(n, seed);
    let train = order.split_off(held);
    Ok((train, order))
}

/// Draws `num_samples` rows of each dataset, one dataset after the other, as `numpy.random.seed(seed)` followed by
/// `permutation` and `choice` does.
pub struct Sampler(Mt19937);

impl Sampler {
    /// A sampler for a run's seed.
    pub fn new(seed: u64) -> Self {
        Self(Mt19937::new(seed as u32))
    }

    /// `wanted` of `n` row numbers: a random permutation, topped up with repeats where more are asked for than exist.
    pub fn draw(&mut self, n: usize, wanted: usize) -> Vec<usize> {
        if n == 0 {
            return Vec::new();
        }
        let mut rows: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            rows.swap(i, self.0.masked_below_or_equal(i as u32) as usize);
        }
        rows.truncate(wanted);
        while rows.len() < wanted {
            rows.push(self.0.masked_below_or_equal(n as u32 - 1) as usize);
        }
        rows
    }
}

/// How several datasets become one (`mix_strategy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mix {
    /// One after the other.
    #[default]
    Concat,
    /// In turns, until the first is exhausted.
    InterleaveUnder,
    /// In turns, until the last is exhausted; shorter ones start again.
    InterleaveOver,
    /// In turns, each row once.
    InterleaveOnce,
}

/// The mixed order as (dataset, row) pairs.
///
/// Without `probabilities` the datasets take turns; with them a dataset is drawn for each place, from
/// `numpy.random.default_rng(seed).choice` in blocks of a thousand, as the `datasets` library does it.
///
/// # Errors
/// When there are not as many probabilities as datasets, when they do not sum to 1, or when a dataset that is to be
/// drawn is empty.
pub fn mix(
    lengths: &[usize],
    strategy: Mix,
    probabilities: Option<&[f64]>,
    seed: u64,
) -> Result<Vec<(usize, usize)>, DataError> {
    if let Some(p) = probabilities
        && strategy != Mix::Concat
        && lengths.len() > 1
    {
        return draw(lengths, strategy, p, seed);
    }
    let all = |d: usize| (0..lengths[d]).map(move |row| (d, row));
    Ok(match strategy {
        _ if lengths.len() < 2 => (0..lengths.len()).flat_map(all).collect(),
        Mix::Concat => (0..lengths.len()).flat_map(all).collect(),
        Mix::InterleaveUnder => {
            let rounds = lengths.iter().copied().min().unwrap_or(0);
            (0..rounds).flat_map(|row| (0..lengths.len()).map(move |d| (d, row))).collect()
        }
        Mix::InterleaveOver => {
            if lengths.contains(&0) {
                return Err(DataError::invalid("interleave_over: one of the datasets is empty"));
            }
            let rounds = lengths.iter().copied().max().unwrap_or(0);
            (0..rounds)
                .flat_map(|row| lengths.iter().enumerate().map(move |(d, n)| (d, row % n)))
                .collect()
        }
        Mix::InterleaveOnce => {
            let rounds = lengths.iter().copied().max().unwrap_or(0);
            let turn =
                |row| (0..lengths.len()).filter(move |d| row < lengths[*d]).map(move |d| (d, row));
            (0..rounds).flat_map(turn).collect()
        }
    })
}

/// Draws a dataset for each place until the strategy's end.
fn draw(
    lengths: &[usize],
    strategy: Mix,
    p: &[f64],
    seed: u64,
) -> Result<Vec<(usize, usize)>, DataError> {
    if let Some(empty) = lengths.iter().position(|n| *n == 0) {
        return Err(DataError::invalid(format!(
            "interleave_probs: dataset number {} is empty",
            empty + 1
        )));
    }
    let mut turns = Turns::new(lengths.len(), strategy, Some(p), seed)?;
    let mut next = vec![0; lengths.len()];
    let mut order = Vec::new();
    while let Some(dataset) = turns.next() {
        order.push((dataset, next[dataset]));
        next[dataset] += 1;
        if next[dataset] >= lengths[dataset] {
            turns.exhausted(dataset);
            next[dataset] = 0;
        }
    }
    Ok(order)
}
