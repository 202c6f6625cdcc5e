//! trainer_log.jsonl: LLaMA-Factory's lines, in its order, with full-precision numbers.
//!
//! After its fields come ours: `grad_norm` and `elapsed_s`. Each step stands there once, however
//! often the run was killed and resumed.

use std::path::PathBuf;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::JournalError;
use super::lines::Lines;
use crate::event::{Body, Event, finite};

/// The open file, and where this session began: only its own steps tell the speed.
#[derive(Debug)]
pub(super) struct TrainerLog {
    lines: Lines,
    session_step: u64,
    session_elapsed_s: f64,
}

#[derive(Debug, Serialize)]
struct Line {
    current_steps: u64,
    total_steps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    loss: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eval_loss: Option<Number>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lr: Option<Number>,
    epoch: f64,
    percentage: f64,
    elapsed_time: String,
    remaining_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grad_norm: Option<Number>,
    elapsed_s: f64,
}

/// A value that was given; not finite is written as `null`.
#[derive(Debug, Serialize)]
struct Number(Option<f64>);

/// What a rewind must know of a line.
#[derive(Debug, Deserialize)]
struct Known {
    current_steps: u64,
    loss: Option<serde_json::Value>,
    eval_loss: Option<serde_json::Value>,
    lr: Option<serde_json::Value>,
}

impl TrainerLog {
    pub(super) fn open(path: PathBuf) -> Result<Self, JournalError> {
        Ok(Self { lines: Lines::open(path)?, session_step: 0, session_elapsed_s: 0.0 })
    }

    /// Appends the line of a metric of training, evaluation or the whole run; else nothing.
    pub(super) fn note(&mut self, event: &Event) -> Result<(), JournalError> {
        match &event.body {
            Body::Started { step, .. } => {
                self.session_step = *step;
                self.session_elapsed_s = event.elapsed_s;
                Ok(())
            }
            Body::Metric { step, total_steps, epoch, values } if belongs(values) => {
                let line = self.line(event.elapsed_s, *step, *total_steps, *epoch, values);
                self.lines.append(&line)
            }
            _ => Ok(()),
        }
    }

    /// Keeps the lines of steps up to `step`; a summary of the whole run goes too.
    pub(super) fn rewind(&mut self, step: u64) -> Result<(), JournalError> {
        self.lines.retain(|line| {
            serde_json::from_slice::<Known>(line).is_ok_and(|known| {
                let summary =
                    known.loss.is_none() && known.eval_loss.is_none() && known.lr.is_none();
                known.current_steps <= step && !summary
            })
        })
    }

    pub(super) const fn length(&self) -> u64 {
        self.lines.length()
    }

    /// Takes back the lines after this length.
    pub(super) fn cut(&mut self, length: u64) -> Result<(), JournalError> {
        self.lines.cut(length)
    }

    pub(super) fn sync(&self) -> Result<(), JournalError> {
        self.lines.sync()
    }

    fn line(
        &self,
        elapsed_s: f64,
        step: u64,
        total_steps: u64,
        epoch: f64,
        values: &IndexMap<String, Option<f64>>,
    ) -> Line {
        let number = |key: &str| values.get(key).copied().map(Number);
        let tokens = values.get("total_tokens").copied().flatten();
        Line {
            current_steps: step,
            total_steps,
            loss: number("loss"),
            eval_loss: number("eval_loss"),
            lr: number("lr"),
            epoch,
            percentage: percentage(step, total_steps),
            elapsed_time: clock(elapsed_s),
            remaining_time: clock(self.remaining_s(elapsed_s, step, total_steps)),
            throughput: tokens.and_then(|tokens| finite(tokens / elapsed_s)),
            total_tokens: tokens.map(|tokens| tokens as u64),
            grad_norm: number("grad_norm"),
            elapsed_s,
        }
    }

    /// Seconds for the steps to come at the pace of this session's steps.
    fn remaining_s(&self, elapsed_s: f64, step: u64, total_steps: u64) -> f64 {
        let done = step.saturating_sub(self.session_step);
        let to_come = total_steps.saturating_sub(step);
        if done == 0 {
            return 0.0;
        }
        (elapsed_s - self.session_elapsed_s) / done as f64 * to_come as f64
    }
}

fn belongs(values: &IndexMap<String, Option<f64>>) -> bool {
    values.keys().any(|key| {
        key == "loss"
            || key == "train_runtime"
            || key == "train_loss"
            || (key.starts_with("eval_") && key.ends_with("loss"))
    })
}

fn percentage(step: u64, total_steps: u64) -> f64 {
    if total_steps == 0 {
        return 100.0;
    }
    (step as f64 / total_steps as f64 * 10_000.0).round() / 100.0
}

/// `H:MM:SS`, with days before it as Python prints them.
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let time = format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    match days {
        0 => time,
        1 => format!("1 day, {time}"),
        _ => format!("{days} days, {time}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{clock, percentage};

    #[test]
    fn times_read_as_in_python() {
        for (seconds, expected) in [
            (-1.0, "0:00:00"),
            (0.9, "0:00:00"),
            (41.0, "0:00:41"),
            (3_599.9, "0:59:59"),
            (36_000.0, "10:00:00"),
            (86_400.0, "1 day, 0:00:00"),
            (200_000.0, "2 days, 7:33:20"),
            (f64::NAN, "0:00:00"),
        ] {
            assert_eq!(clock(seconds), expected);
        }
    }

    #[test]
    fn percentages_have_two_places() {
        for (step, total, expected) in
            [(5, 168, 2.98), (100, 168, 59.52), (3, 3, 100.0), (0, 0, 100.0)]
        {
            assert_eq!(percentage(step, total), expected);
        }
    }
}
