//! Which rows an optimiser step trains on: arithmetic and the reference's order, nothing else.
//!
//! Everything is a function of the step, so a resumed run needs only its step number. Counts are
//! transformers': micro-batches an epoch = ceil(rows / batch), updates an epoch = ceil of those /
//! accumulation (the last update of an epoch may be smaller), epoch = micro-batches seen.

use std::ops::Range;

use run::config::Config;
use run::fields::SamplingStrategy;

use crate::data::order::{epoch_order, grouped_order};
use crate::error::{Error, Result};

/// A run's steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    rows: usize,
    /// Tokens of each row; none where they are not known beforehand.
    lengths: Vec<usize>,
    batch: usize,
    accumulation: usize,
    batches_per_epoch: usize,
    order: Order,
    /// Optimiser steps in an epoch.
    pub updates_per_epoch: u64,
    /// Optimiser steps of the run.
    pub total_steps: u64,
    /// Passes over the data that was asked for.
    pub epochs: f64,
}

/// Which row comes when.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    Shuffled { seed: u64 },
    Sequential,
    Grouped { seed: u64 },
}

/// The epoch at hand.
#[derive(Clone, Debug, Default)]
pub struct EpochOrder {
    held: Option<Epoch>,
}

#[derive(Clone, Debug)]
struct Epoch {
    number: u64,
    /// The permutation.
    rows: Vec<usize>,
    /// Tokens of the largest micro-batch up to each; none where they are not known.
    largest: Vec<usize>,
}

impl Plan {
    /// The steps of `config` over rows of these lengths.
    ///
    /// # Errors
    /// When there is no row, or fewer than a batch and `dataloader_drop_last` is set.
    pub fn new(config: &Config, lengths: &[usize]) -> Result<Self> {
        let rows = lengths.len();
        let batch = config.per_device_train_batch_size;
        let accumulation = config.gradient_accumulation_steps;
        let batches_per_epoch = match config.dataloader_drop_last {
            true => rows / batch,
            false => rows.div_ceil(batch),
        };
        if batches_per_epoch == 0 {
            return Err(Error::input(
                "dataset",
                format!(
                    "{rows} rows make no batch of {batch}; add rows, or lower \
                     per_device_train_batch_size or val_size"
                ),
            ));
        }
        let updates_per_epoch = batches_per_epoch.div_ceil(accumulation) as u64;
        let by_epochs = (config.num_train_epochs * updates_per_epoch as f64).ceil() as u64;
        let total_steps = match u64::try_from(config.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => by_epochs,
        };
        let order = match config.sampling() {
            // A stream is shuffled where it is read.
            _ if config.streaming => Order::Sequential,
            SamplingStrategy::Sequential => Order::Sequential,
            SamplingStrategy::Random => Order::Shuffled { seed: config.order_seed() },
            SamplingStrategy::GroupByLength => Order::Grouped { seed: config.seed },
        };
        let lengths = if config.streaming { Vec::new() } else { lengths.to_vec() };
        let epochs = match config.max_steps > 0 {
            true => (total_steps as f64 / updates_per_epoch as f64).ceil(),
            false => config.num_train_epochs,
        };
        Ok(Self {
            rows,
            lengths,
            batch,
            accumulation,
            batches_per_epoch,
            order,
            updates_per_epoch,
            total_steps,
            epochs,
        })
    }

    /// Rows of each micro-batch of `step` (0-based).
    #[must_use]
    pub fn micro_batches(&self, step: u64, order: &mut EpochOrder) -> Vec<Vec<usize>> {
        let (epoch, batches) = self.batches(step);
        let rows = &order.of(self, epoch).rows;
        batches
            .map(|b| rows[b * self.batch..((b + 1) * self.batch).min(rows.len())].to_vec())
            .collect()
    }

    /// Tokens of the largest micro-batch of the epoch up to `step` (0-based); 0 where lengths are not known
    /// beforehand.
    #[must_use]
    pub fn largest_yet(&self, step: u64, order: &mut EpochOrder) -> usize {
        let (epoch, batches) = self.batches(step);
        let largest = &order.of(self, epoch).largest;
        batches.last().and_then(|b| largest.get(b)).copied().unwrap_or(0)
    }

    /// The epoch of `step`, and its micro-batches in it.
    fn batches(&self, step: u64) -> (u64, Range<usize>) {
        let (epoch, update) = (step / self.updates_per_epoch, step % self.updates_per_epoch);
        let from = update as usize * self.accumulation;
        (epoch, from..(from + self.accumulation).min(self.batches_per_epoch))
    }

    /// Micro-batches before `step` (0-based): the counter of dropout streams.
    #[must_use]
    pub fn micro_step(&self, step: u64) -> u64 {
        let (epoch, batches) = self.batches(step);
        epoch * self.batches_per_epoch as u64 + batches.start as u64
    }

    /// Passes over the data after `steps` optimiser steps.
    #[must_use]
    pub fn epoch_after(&self, steps: u64) -> f64 {
        let (epoch, update) = (steps / self.updates_per_epoch, steps % self.updates_per_epoch);
        let seen = update as f64 * self.accumulation as f64;
        epoch as f64 + seen / self.batches_per_epoch as f64
    }

    /// Whether `steps` optimiser steps end an epoch.
    #[must_use]
    pub fn ends_epoch(&self, steps: u64) -> bool {
        steps > 0 && steps.is_multiple_of(self.updates_per_epoch)
    }

    /// Rows of an update that is not the last of its epoch.
    #[must_use]
    pub fn rows_per_step(&self) -> usize {
        (self.batch * self.accumulation).min(self.rows)
    }
}

impl EpochOrder {
    fn of(&mut self, plan: &Plan, number: u64) -> &Epoch {
        let held = self.held.take().filter(|epoch| epoch.number == number);
        self.held.insert(held.unwrap_or_else(|| Epoch::new(plan, number)))
    }
}

impl Epoch {
    fn new(plan: &Plan, number: u64) -> Self {
        let rows = match plan.order {
            Order::Shuffled { seed } => epoch_order(plan.rows, seed, number),
            Order::Sequential => (0..plan.rows).collect(),
            Order::Grouped { seed } => {
                grouped_order(&plan.lengths, plan.batch * plan.accumulation, seed, number)
            }
        };
        let tokens = |rows: &[usize]| rows.iter().filter_map(|row| plan.lengths.get(*row)).sum();
        let batches = rows.chunks(plan.batch).map(tokens);
        let largest = batches
            .scan(0, |most, tokens: usize| {
                *most = tokens.max(*most);
                Some(*most)
            })
            .collect();
        Self { number, rows, largest }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config(batch: usize, accumulation: usize, epochs: f64) -> Config {
        Config {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            num_train_epochs: epochs,
            ..Config::default()
        }
    }

    #[test]
    fn step_counts_are_the_trainers() {
        // The mission run: 900 rows, 2 x 8, three epochs -> 57 updates an epoch, 171 in all.
        let plan = Plan::new(&config(2, 8, 3.0), &[1; 900]).unwrap();
        assert_eq!((plan.updates_per_epoch, plan.total_steps), (57, 171));
        let mut order = EpochOrder::default();
        assert_eq!(plan.micro_batches(0, &mut order).len(), 8);
        assert_eq!(plan.micro_batches(56, &mut order).len(), 2);
        assert_eq!(plan.micro_step(57), 450);
        assert!((plan.epoch_after(57) - 1.0).abs() < 1e-12);
        assert!((plan.epoch_after(5) - 40.0 / 450.0).abs() < 1e-12);
        for (rows, batch, accumulation, epochs, total) in
            [(5, 2, 1, 1.0, 3), (5, 2, 4, 1.5, 2), (1, 8, 8, 2.0, 2), (10, 1, 3, 0.5, 2)]
        {
            let plan = Plan::new(&config(batch, accumulation, epochs), &vec![1; rows]).unwrap();
            assert_eq!(plan.total_steps, total, "{rows} rows");
        }
        let fixed = Config { max_steps: 7, ..config(2, 2, 1.0) };
        assert_eq!(Plan::new(&fixed, &[1; 100]).unwrap().total_steps, 7);
        assert!(Plan::new(&config(1, 1, 1.0), &[]).is_err());
    }

    #[test]
    fn the_largest_micro_batch_yet_is_this_epochs() {
        let sequential =
            |streaming| Config { disable_shuffling: true, streaming, ..config(2, 2, 2.0) };
        let lengths = [1, 2, 5, 1, 3, 3, 1, 1, 9];
        for (streaming, expected) in [(false, [6, 6, 9, 6, 6, 9]), (true, [0; 6])] {
            let plan = Plan::new(&sequential(streaming), &lengths).unwrap();
            let mut order = EpochOrder::default();
            let got: Vec<usize> = (0..6).map(|step| plan.largest_yet(step, &mut order)).collect();
            assert_eq!(got, expected, "streaming: {streaming}");
        }
    }

    #[test]
    fn every_row_comes_once_an_epoch() {
        let plan = Plan::new(&config(3, 2, 2.0), &[1; 20]).unwrap();
        let mut order = EpochOrder::default();
        for epoch in 0..2 {
            let steps = epoch * plan.updates_per_epoch..(epoch + 1) * plan.updates_per_epoch;
            let mut seen: Vec<usize> =
                steps.flat_map(|s| plan.micro_batches(s, &mut order)).flatten().collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
        }
    }
}
