//! Everything besides weights and moments that must survive a kill.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fit::Fit;
use crate::watch::Watch;

/// The file's name in a checkpoint.
pub const FILE: &str = "tallow_state.json";

/// A run's counters after a number of optimiser steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens trained on; there is no padding to count.
    pub total_tokens: u64,
    /// Sum of the steps' losses since the last log line, and how many.
    pub window: (f64, u64),
    /// Sum of all steps' losses, and how many.
    pub whole: (f64, u64),
    /// Steps refused running because loss or gradient was not finite.
    pub refused: u32,
    /// Floating-point operations so far, as transformers counts them (6 a parameter and token).
    pub total_flos: f64,
    /// BAdam: ordinal of the block that the moments belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
    /// How much of it is computed at once; `None` before it begins, and in checkpoints of versions that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// What evaluations have decided.
    #[serde(default)]
    pub watch: Watch,
    /// Updates that each parameter's moments have seen; filled in a checkpoint.
    pub updates: BTreeMap<String, u64>,
    /// Log lines so far, as trainer_state.json holds them.
    pub log_history: Vec<Map<String, Value>>,
}

impl State {
    /// Counts one optimiser step.
    pub fn advance(&mut self, loss: f64, tokens: u64, flos: f64) {
        self.step += 1;
        self.total_tokens += tokens;
        self.total_flos += flos;
        for (sum, count) in [&mut self.window, &mut self.whole] {
            *sum += loss;
            *count += 1;
        }
    }

    /// The mean loss since the last call, and starts anew.
    pub fn take_window(&mut self) -> f64 {
        let (sum, count) = std::mem::take(&mut self.window);
        sum / count.max(1) as f64
    }

    /// The mean loss of all steps.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        self.whole.0 / self.whole.1.max(1) as f64
    }
}
