//! What a worker says while it runs: one JSON object a line in events.jsonl.
//!
//! JSON has no NaN: a value that is not finite is `None` here and `null` in the file.

mod tail;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use tail::{Batch, Tail};

/// One line of events.jsonl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up from 1 in each run, over all its restarts.
    pub seq: u64,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: u64,
    /// Monotonic seconds since training began; goes on over resumes.
    pub elapsed_s: f64,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// A phase began, or came further.
    Phase {
        /// Which one.
        phase: Phase,
        /// Units done so far, where they can be counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        done: Option<u64>,
        /// Units in all.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// The model is there and the first step is about to begin.
    Started {
        /// Optimiser steps already done: 0, or those of the checkpoint resumed from.
        step: u64,
        /// Optimiser steps of the whole run.
        total_steps: u64,
        /// Parameters that this run may change.
        trainable_params: u64,
        /// Parameters in all.
        all_params: u64,
        /// Passes over the data.
        epochs: f64,
    },
    /// Measured values at a step.
    Metric {
        /// Optimiser steps done.
        step: u64,
        /// Optimiser steps of the whole run.
        total_steps: u64,
        /// Passes over the data done, with the fraction.
        epoch: f64,
        /// `loss`, `lr`, `grad_norm`, `total_tokens`, `tokens_per_s`, `eval_loss` ...; `None` is not finite.
        values: IndexMap<String, Option<f64>>,
    },
    /// Something a person should read.
    Notice {
        /// How much it matters.
        level: Level,
        /// One line or a few.
        text: String,
    },
    /// A checkpoint is complete on disk.
    Checkpoint {
        /// Optimiser steps it holds.
        step: u64,
        /// Its folder's name below the run directory.
        dir: String,
    },
    /// What the model answers at a step.
    Sample {
        /// Optimiser steps done.
        step: u64,
        /// The question.
        prompt: String,
        /// The answer.
        text: String,
    },
    /// A resume went back: what was said of later steps no longer holds.
    Rewound {
        /// The step that training goes on from.
        to_step: u64,
    },
    /// The worker's last word.
    Exit {
        /// See [`crate::exit::ExitCode`].
        code: i32,
        /// Why, when it is not 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
}

/// The parts of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Arguments are parsed and checked.
    Starting,
    /// The tokenizer is read and fixed by the template.
    Tokenizer,
    /// Rows are read, aligned, split and encoded.
    Data,
    /// Weights are read.
    Model,
    /// Steps.
    Training,
    /// The loss on held-out rows.
    Evaluating,
    /// A checkpoint is written.
    Saving,
    /// The finished model, metrics and plots are written.
    Finalizing,
}

impl Phase {
    /// The name in events.jsonl.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Tokenizer => "tokenizer",
            Self::Data => "data",
            Self::Model => "model",
            Self::Training => "training",
            Self::Evaluating => "evaluating",
            Self::Saving => "saving",
            Self::Finalizing => "finalizing",
        }
    }
}

/// How much a notice matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Good to know.
    Info,
    /// Probably not what was meant.
    Warn,
    /// It failed.
    Error,
}

impl Body {
    /// A phase without a count.
    #[must_use]
    pub const fn phase(phase: Phase) -> Self {
        Self::Phase { phase, done: None, total: None }
    }

    /// A phase that has come `done` of `total` units.
    #[must_use]
    pub const fn progress(phase: Phase, done: u64, total: u64) -> Self {
        Self::Phase { phase, done: Some(done), total: Some(total) }
    }

    /// A notice that is good to know.
    #[must_use]
    pub fn info(text: impl Into<String>) -> Self {
        Self::Notice { level: Level::Info, text: text.into() }
    }

    /// A notice about something that is probably not what was meant.
    #[must_use]
    pub fn warn(text: impl Into<String>) -> Self {
        Self::Notice { level: Level::Warn, text: text.into() }
    }

    /// Measured values; what is not finite becomes `None`.
    #[must_use]
    pub fn metric(step: u64, total_steps: u64, epoch: f64, values: &[(&str, f64)]) -> Self {
        let values =
            values.iter().map(|(key, value)| ((*key).to_owned(), finite(*value))).collect();
        Self::Metric { step, total_steps, epoch, values }
    }

    /// True where the line must be on disk before the worker goes on.
    #[must_use]
    pub const fn must_be_durable(&self) -> bool {
        matches!(
            self,
            Self::Phase { phase: Phase::Saving | Phase::Finalizing, .. }
                | Self::Checkpoint { .. }
                | Self::Rewound { .. }
                | Self::Exit { .. }
        )
    }
}

/// The value, unless it is infinite or not a number.
#[must_use]
pub fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use super::*;

    fn check(body: Body, expected: &str) {
        let event = Event { seq: 3, at_ms: 7, elapsed_s: 1.5, body };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, format!(r#"{{"seq":3,"at_ms":7,"elapsed_s":1.5,{expected}}}"#));
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn every_body_has_its_line_and_reads_back() {
        check(Body::phase(Phase::Starting), r#""kind":"phase","phase":"starting""#);
        check(
            Body::progress(Phase::Data, 3, 10),
            r#""kind":"phase","phase":"data","done":3,"total":10"#,
        );
        check(
            Body::Started {
                step: 0,
                total_steps: 9,
                trainable_params: 4,
                all_params: 5,
                epochs: 3.0,
            },
            r#""kind":"started","step":0,"total_steps":9,"trainable_params":4,"all_params":5,"epochs":3.0"#,
        );
        check(
            Body::metric(5, 9, 0.25, &[("loss", 1.0 / 3.0), ("grad_norm", f64::NAN), ("lr", 5e-5)]),
            r#""kind":"metric","step":5,"total_steps":9,"epoch":0.25,"values":{"loss":0.3333333333333333,"grad_norm":null,"lr":0.00005}"#,
        );
        check(Body::warn("so"), r#""kind":"notice","level":"warn","text":"so""#);
        check(
            Body::Checkpoint { step: 5, dir: "checkpoint-5".into() },
            r#""kind":"checkpoint","step":5,"dir":"checkpoint-5""#,
        );
        check(
            Body::Sample { step: 0, prompt: "q".into(), text: "a\nb".into() },
            r#""kind":"sample","step":0,"prompt":"q","text":"a\nb""#,
        );
        check(Body::Rewound { to_step: 5 }, r#""kind":"rewound","to_step":5"#);
        check(Body::Exit { code: 0, message: None }, r#""kind":"exit","code":0"#);
        check(
            Body::Exit { code: 20, message: Some("why".into()) },
            r#""kind":"exit","code":20,"message":"why""#,
        );
    }

    #[test]
    fn phase_names_are_those_of_the_file() {
        use Phase::*;
        for phase in [Starting, Tokenizer, Data, Model, Training, Evaluating, Saving, Finalizing] {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
    }
}
