//! BAdam: Adam on one block of weights at a time, so that gradients and moments of one block are
//! all that memory must hold. Source: Luo, Yu and Li, 2024 (arXiv 2404.02827) and the package
//! `badam` 1.3 as LLaMA-Factory calls it.
//!
//! Which block a step trains is a function of the step alone: a resumed run needs no more than its
//! step number. Layer mode's blocks are the decoder's layers; embeddings, final norm and head never
//! move. Ratio mode trains the same share of every other weight's entries, which move on every
//! [`RATIO_EVERY`] steps.

use std::ops::RangeInclusive;
use std::sync::Arc;

use run::config::Config;
use run::fields::{BadamMaskMode, BadamMode, BadamSwitchMode};

use crate::error::{Error, Result};
use crate::model::entries::Entries;
use crate::model::params::layer_of;
use crate::model::store::{Grads, Params, Role};
use crate::rng::{Purpose, Stream};

/// Steps after which ratio mode's entries move on: the package's own number, which LLaMA-Factory
/// does not change.
pub const RATIO_EVERY: u64 = 100;

/// Weights with fewer entries than this are trained whole in ratio mode.
const SMALL: usize = 100;

/// What is trained at which step.
#[derive(Clone, Debug)]
pub struct Badam {
    blocks: Blocks,
    /// What the method trains apart from BAdam, by parameter.
    may_train: Vec<bool>,
}

#[derive(Clone, Debug)]
enum Blocks {
    /// The model's layers in this order; `layers` are those that hold something to train.
    Layers { order: Order, layers: Vec<usize> },
    /// A share of the entries.
    Share { ratio: f64, scattered: bool, seed: u64 },
}

impl Badam {
    /// What `config` says of a model whose trained parameters are decided; `None` without
    /// `use_badam`.
    ///
    /// # Errors
    /// When there is no layer to train or `badam_start_block` is none of them.
    pub fn new(config: &Config, params: &Params) -> Result<Option<Self>> {
        if !config.use_badam {
            return Ok(None);
        }
        let may_train: Vec<bool> = params.iter().map(|(_, p)| p.trainable).collect();
        let blocks = match config.badam_mode {
            BadamMode::Layer => {
                let layers = trained_layers(params);
                Blocks::Layers { order: Order::new(config, layers.len())?, layers }
            }
            BadamMode::Ratio => Blocks::Share {
                ratio: config.badam_update_ratio,
                scattered: config.badam_mask_mode == BadamMaskMode::Scatter,
                seed: config.seed,
            },
        };
        Ok(Some(Self { blocks, may_train }))
    }

    /// The ordinal of the block that `step` (0-based) trains: it goes up by one at each switch.
    #[must_use]
    pub fn ordinal(&self, step: u64) -> u64 {
        match &self.blocks {
            Blocks::Layers { order, .. } => order.ordinal(step),
            Blocks::Share { .. } => step / RATIO_EVERY,
        }
    }

    /// Marks what block `ordinal` trains, and returns buffers for its gradients.
    #[must_use]
    pub fn activate(&self, ordinal: u64, params: &mut Params) -> Grads {
        let mut may_train = self.may_train.iter();
        let mut allowed = move || may_train.next().copied().unwrap_or(false);
        match &self.blocks {
            Blocks::Layers { order, layers } => {
                let active = layers.get(order.block(ordinal)).copied();
                params.set_trainable(|p| {
                    allowed() && active.is_some() && layer_of(&p.name) == active
                });
                Grads::new(params)
            }
            Blocks::Share { ratio, scattered, seed } => {
                params.set_trainable(|p| allowed() && p.role != Role::Embedding);
                let mut share = Share::new(*ratio, *scattered, *seed, ordinal);
                Grads::of_entries(params, |p| share.of(p.value.elem_count()))
            }
        }
    }

    /// What a person should know before the run: which blocks `total` steps reach.
    #[must_use]
    pub fn coverage(&self, total: u64) -> String {
        match &self.blocks {
            Blocks::Layers { order, layers } => {
                let mut reached: Vec<usize> = order
                    .reached(total)
                    .into_iter()
                    .filter_map(|b| layers.get(b).copied())
                    .collect();
                reached.sort_unstable();
                format!(
                    "BAdam: {} reach {} of {}; embeddings, final norm and head stay as they are",
                    counted(total, "step"),
                    ranges(&reached),
                    layers.len()
                )
            }
            Blocks::Share { ratio, .. } => format!(
                "BAdam: {} reach {:.1} % of each layer's weights, {:.1} % at a time; the entries move on \
                 every {RATIO_EVERY} steps (badam_switch_interval is for layer mode) and do not decay; \
                 embeddings and head stay as they are",
                counted(total, "step"),
                (100.0 * ratio * total.div_ceil(RATIO_EVERY) as f64).min(100.0),
                100.0 * ratio,
            ),
        }
    }

    /// The block's name for the log.
    #[must_use]
    pub fn name(&self, ordinal: u64) -> String {
        match &self.blocks {
            Blocks::Layers { order, layers } => {
                let layer = layers.get(order.block(ordinal)).copied().unwrap_or_default();
                format!("layer {layer} of {}", layers.len())
            }
            Blocks::Share { .. } => format!("entries {}", ordinal + 1),
        }
    }
}

/// In which order layer mode's blocks come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    mode: BadamSwitchMode,
    blocks: usize,
    start: Option<usize>,
    /// Steps between switches; `None` = never.
    every: Option<u64>,
    seed: u64,
}

impl Order {
    /// The order that `config` asks for over `blocks` blocks.
    ///
    /// # Errors
    /// When there is no block, or `badam_start_block` is none of them.
    pub fn new(config: &Config, blocks: usize) -> Result<Self> {
        if blocks == 0 {
            return Err(Error::input("use_badam", "no layer of the model is to be trained"));
        }
        let start = match config.badam_start_block {
            None => None,
            Some(start) => match usize::try_from(start) {
                Ok(start) if start < blocks => Some(start),
                _ => {
                    let why = format!("{start} is no block: they are 0 to {}", blocks - 1);
                    return Err(Error::input("badam_start_block", why));
                }
            },
        };
        let mode = config.badam_switch_mode.unwrap_or(BadamSwitchMode::Ascending);
        let every = config.badam_switch_interval.and_then(|k| u64::try_from(k).ok());
        Ok(Self { mode, blocks, start, every: every.filter(|k| *k > 0), seed: config.seed })
    }

    /// Switches before `step` (0-based). The package switches after update s (1-based) where s + 1
    /// is a multiple of the interval: the first block has one step less than the others.
    #[must_use]
    pub fn ordinal(&self, step: u64) -> u64 {
        match self.every {
            None => 0,
            Some(1) => step,
            Some(every) => (step + 1) / every,
        }
    }

    /// The block with this ordinal.
    #[must_use]
    pub fn block(&self, ordinal: u64) -> usize {
        let d = self.blocks as u64;
        let place = (ordinal % d) as usize;
        match self.mode {
            BadamSwitchMode::Ascending => (self.start.unwrap_or(0) + place) % self.blocks,
            BadamSwitchMode::Descending => {
                (self.start.unwrap_or(self.blocks - 1) + self.blocks - place) % self.blocks
            }
            BadamSwitchMode::Fixed => self.start.unwrap_or(0),
            BadamSwitchMode::Random => {
                let round = ordinal / d;
                let mut order = shuffled(self.blocks, self.seed, round, 0);
                if let Some(start) = self.start.filter(|_| round == 0)
                    && let Some(at) = order.iter().position(|b| *b == start as u32)
                {
                    order.swap(0, at);
                }
                order[place] as usize
            }
        }
    }

    /// The blocks that `total` steps train, in the order of their first step.
    #[must_use]
    pub fn reached(&self, total: u64) -> Vec<usize> {
        let mut seen = Vec::new();
        let last = total.checked_sub(1).map(|step| self.ordinal(step));
        // No order visits a block for the first time after two rounds.
        for ordinal in 0..last.map_or(0, |o| (o + 1).min(2 * self.blocks as u64)) {
            let block = self.block(ordinal);
            if !seen.contains(&block) {
                seen.push(block);
            }
        }
        seen
    }
}

/// Ratio mode's entries in one window of steps; weights of one size share theirs.
struct Share {
    ratio: f64,
    scattered: bool,
    seed: u64,
    window: u64,
    made: Vec<(usize, Arc<Entries>)>,
}

impl Share {
    fn new(ratio: f64, scattered: bool, seed: u64, window: u64) -> Self {
        Self { ratio, scattered, seed, window, made: Vec::new() }
    }

    fn of(&mut self, size: usize) -> Arc<Entries> {
        if let Some((_, entries)) = self.made.iter().find(|(s, _)| *s == size) {
            return entries.clone();
        }
        let count = match size < SMALL {
            true => size,
            false => ((size as f64 * self.ratio) as usize).min(size),
        };
        let from = (u128::from(self.window) * count as u128 % size.max(1) as u128) as usize;
        let entries = match self.scattered {
            false => Entries::adjacent(from, count, size),
            true => {
                let order = shuffled(size, self.seed, 0, size as u32);
                Entries::scattered((from..from + count).map(|i| order[i % size]).collect())
            }
        };
        let entries = Arc::new(entries);
        self.made.push((size, entries.clone()));
        entries
    }
}

/// 0..n in random order: Fisher and Yates with the numbers of one stream.
fn shuffled(n: usize, seed: u64, round: u64, layer: u32) -> Vec<u32> {
    let stream = Stream::new(seed, Purpose::BadamOrder, round, layer);
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        let word = stream.block((i / 4) as u32)[i % 4];
        order.swap(i, ((u64::from(word) * (i as u64 + 1)) >> 32) as usize);
    }
    order
}

fn trained_layers(params: &Params) -> Vec<usize> {
    let trained = params.iter().filter(|(_, p)| p.trainable);
    let mut layers: Vec<usize> = trained.filter_map(|(_, p)| layer_of(&p.name)).collect();
    layers.sort_unstable();
    layers.dedup();
    layers
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// "layers 0-3, 7" of sorted numbers.
fn ranges(sorted: &[usize]) -> String {
    let mut runs: Vec<RangeInclusive<usize>> = Vec::new();
    for n in sorted {
        match runs.last_mut() {
            Some(run) if run.end() + 1 == *n => *run = *run.start()..=*n,
            _ => runs.push(*n..=*n),
        }
    }
    let text = |run: &RangeInclusive<usize>| match run.start() == run.end() {
        true => run.start().to_string(),
        false => format!("{}-{}", run.start(), run.end()),
    };
    let texts: Vec<String> = runs.iter().map(text).collect();
    format!("layer{} {}", if sorted.len() == 1 { "" } else { "s" }, texts.join(", "))
}

#[cfg(test)]
#[path = "badam/tests.rs"]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
