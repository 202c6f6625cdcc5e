//! What a run says while it steps: metrics at the logging steps, evaluation, samples, progress.

use std::collections::BTreeMap;

use run::config::Config;
use run::event::{Body, Phase};
use run::fields::{IntervalStrategy, SaveStrategy};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::eval;
use crate::observer::Observer;
use crate::prepare::Prepared;
use crate::sample;
use crate::step::Measured;
use crate::train::Run;

/// Seconds between two progress events: a step may take a millisecond.
const PROGRESS_EVERY_S: f64 = 0.5;

/// Speed and cadence of one session.
#[derive(Debug)]
pub struct Reporter {
    began_s: f64,
    began_tokens: u64,
    told_s: f64,
    last: (f64, u64),
}

impl Reporter {
    /// Tells that training begins, and what the model says before it.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn begin(run: &mut Run<'_>, io: &mut dyn Observer) -> Result<Self> {
        let (trainable, all) = run.prepared.decoder.params.counts();
        io.say(format!(
            "trainable params: {} || all params: {} || trainable%: {:.4}",
            grouped(trainable),
            grouped(all),
            100.0 * trainable as f64 / all as f64
        ))?;
        if let Some(badam) = &run.badam {
            io.say(badam.coverage(run.plan.total_steps))?;
        }
        io.say(format!(
            "{} rows, {} steps ({} an epoch), batch {} x {}, {} threads",
            run.prepared.train.len(),
            run.plan.total_steps,
            run.plan.updates_per_epoch,
            run.config.per_device_train_batch_size,
            run.config.gradient_accumulation_steps,
            run.threads
        ))?;
        if run.state.step == 0 {
            sample::tell(run, io)?;
        }
        io.event(Body::Started {
            step: run.state.step,
            total_steps: run.plan.total_steps,
            trainable_params: trainable,
            all_params: all,
            epochs: run.plan.epochs,
        })?;
        io.phase(Phase::Training)?;
        let (now, tokens) = (io.elapsed_s(), run.state.total_tokens);
        let mut reporter =
            Self { began_s: now, began_tokens: tokens, told_s: now, last: (now, tokens) };
        if run.config.eval_on_start && run.state.step == 0 && !run.prepared.eval.is_empty() {
            reporter.evaluate(run, io)?;
        }
        Ok(reporter)
    }

    /// Tells of a step, in full at a logging step.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn stepped(
        &mut self,
        run: &mut Run<'_>,
        measured: &Measured,
        lr: f64,
        io: &mut dyn Observer,
    ) -> Result<()> {
        let (step, total) = (run.state.step, run.plan.total_steps);
        let now = io.elapsed_s();
        if now - self.told_s >= PROGRESS_EVERY_S || step == total {
            self.told_s = now;
            io.progress(Phase::Training, step, total)?;
        }
        let every = run.config.log_every(total);
        let due = every.is_some_and(|n| step.is_multiple_of(n));
        let first = step == 1 && run.config.logging_first_step;
        let epoch_end =
            run.config.logging_strategy == IntervalStrategy::Epoch && ends_epoch(run, step);
        if !due && !first && !epoch_end {
            return Ok(());
        }
        let loss = run.state.take_window();
        let epoch = run.plan.epoch_after(step);
        let tokens = run.state.total_tokens;
        let speed = (tokens - self.last.1) as f64 / (now - self.last.0).max(1e-9);
        self.last = (now, tokens);
        run.state.log_history.push(history(&[
            ("epoch", json!(epoch)),
            ("grad_norm", json!(measured.grad_norm)),
            ("learning_rate", json!(lr)),
            ("loss", json!(loss)),
            ("step", json!(step)),
        ]));
        let values = [
            ("loss", loss),
            ("lr", lr),
            ("grad_norm", measured.grad_norm),
            ("tokens_per_s", speed),
            ("total_tokens", tokens as f64),
        ];
        io.event(Body::metric(step, total, epoch, &values))
    }

    /// Whether an evaluation is due after `step` steps. The last step has one too.
    #[must_use]
    pub fn evaluates_at(&self, run: &Run<'_>, step: u64) -> bool {
        let config: &Config = run.config;
        if run.prepared.eval.is_empty() {
            return false;
        }
        match config.eval_strategy {
            IntervalStrategy::No => false,
            IntervalStrategy::Steps => {
                let every = config.eval_every(run.plan.total_steps);
                let due = every.is_some_and(|n| step.is_multiple_of(n));
                (due || step == run.plan.total_steps) && config.eval_delay <= step as f64
            }
            IntervalStrategy::Epoch => {
                ends_epoch(run, step) && config.eval_delay <= run.plan.epoch_after(step)
            }
        }
    }

    /// Whether a checkpoint is due after `step` steps; the last step has one unless saving is off.
    #[must_use]
    pub fn saves_at(&self, run: &Run<'_>, step: u64) -> bool {
        let config: &Config = run.config;
        let every = config.save_every(run.plan.total_steps);
        let by_steps = every.is_some_and(|n| step.is_multiple_of(n));
        let by_epoch = config.save_strategy == SaveStrategy::Epoch && ends_epoch(run, step);
        let last = step == run.plan.total_steps && config.save_strategy == SaveStrategy::Steps;
        by_steps || by_epoch || last
    }

    /// Evaluates every set and tells what it finds, which is also returned, by name.
    ///
    /// # Errors
    /// When it cannot be computed or written down.
    pub fn evaluate(
        &mut self,
        run: &mut Run<'_>,
        io: &mut dyn Observer,
    ) -> Result<BTreeMap<String, f64>> {
        let (step, total) = (run.state.step, run.plan.total_steps);
        let epoch = run.plan.epoch_after(step);
        let mut all = BTreeMap::new();
        for found in evaluate_sets(run, io)? {
            let mut line = history(&[("epoch", json!(epoch)), ("step", json!(step))]);
            line.extend(found.results());
            run.state.log_history.push(line);
            let metrics = found.metrics();
            let values: Vec<_> = metrics.iter().map(|(k, v)| (k.as_str(), *v)).collect();
            io.event(Body::metric(step, total, epoch, &values))?;
            all.extend(metrics);
        }
        if step < total {
            sample::tell(run, io)?;
        }
        io.phase(Phase::Training)?;
        // The next speed should not count this time.
        self.last = (io.elapsed_s(), run.state.total_tokens);
        Ok(all)
    }

    /// Tokens trained on and seconds in this session.
    #[must_use]
    pub fn session(&self, run: &Run<'_>, io: &dyn Observer) -> (u64, f64) {
        (run.state.total_tokens - self.began_tokens, io.elapsed_s() - self.began_s)
    }
}

/// What an evaluation of one set found.
#[derive(Clone, Debug)]
pub struct Evaluated {
    /// `eval`, or `eval_<name>` where there are several sets.
    pub key: String,
    /// Losses and shares.
    pub found: eval::EvalLoss,
    /// Seconds.
    pub runtime: f64,
    /// Batches.
    pub batches: usize,
    /// Whether accuracy is asked for.
    accuracy: bool,
}

impl Evaluated {
    /// The figures that may decide what is best, and that curves show.
    #[must_use]
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let found = &self.found;
        let mut out = vec![
            (format!("{}_loss", self.key), found.eval_loss),
            (format!("{}_token_loss", self.key), found.token_loss),
        ];
        if self.accuracy {
            out.push((format!("{}_accuracy", self.key), found.accuracy));
        }
        out
    }

    /// The figures that transformers writes into files, under its names.
    #[must_use]
    pub fn results(&self) -> Map<String, Value> {
        let key = &self.key;
        let seconds = self.runtime.max(1e-9);
        let mut map = Map::new();
        let mut put = |name: &str, value: f64| map.insert(format!("{key}_{name}"), json!(value));
        put("loss", self.found.eval_loss);
        if self.accuracy {
            put("accuracy", self.found.accuracy);
        }
        put("runtime", rounded(self.runtime, 4));
        put("samples_per_second", rounded(self.found.rows as f64 / seconds, 3));
        put("steps_per_second", rounded(self.batches as f64 / seconds, 3));
        map
    }
}

/// A number with so many decimals, as transformers writes speeds.
#[must_use]
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let unit = 10f64.powi(decimals);
    (value * unit).round() / unit
}

/// Names of the metrics that evaluations of this run will tell.
#[must_use]
pub fn metric_names(config: &Config, prepared: &Prepared) -> Vec<String> {
    if config.eval_strategy == IntervalStrategy::No {
        return Vec::new();
    }
    let names = prepared.eval.iter().map(|(name, _)| Evaluated {
        key: key(name),
        found: eval::EvalLoss::default(),
        runtime: 0.0,
        batches: 0,
        accuracy: config.compute_accuracy,
    });
    names.flat_map(|one| one.metrics()).map(|(name, _)| name).collect()
}

fn key(set: &str) -> String {
    if set.is_empty() { "eval".to_owned() } else { format!("eval_{set}") }
}

/// Whether an epoch ends after `step` steps; the last step ends one too.
fn ends_epoch(run: &Run<'_>, step: u64) -> bool {
    run.plan.ends_epoch(step) || step == run.plan.total_steps
}

/// Evaluates every evaluation set.
///
/// # Errors
/// When it cannot be computed or written down.
pub fn evaluate_sets(run: &Run<'_>, io: &mut dyn Observer) -> Result<Vec<Evaluated>> {
    let mut all = Vec::new();
    for (name, rows) in &run.prepared.eval {
        let began = io.elapsed_s();
        let mut told = began;
        let total = rows.len() as u64;
        io.progress(Phase::Evaluating, 0, total)?;
        let batch = run.config.per_device_eval_batch_size;
        let found = eval::run(&run.prepared.decoder, rows, batch, |done| {
            if io.elapsed_s() - told < PROGRESS_EVERY_S {
                return Ok(());
            }
            told = io.elapsed_s();
            io.progress(Phase::Evaluating, done as u64, total)
        })?;
        all.push(Evaluated {
            key: key(name),
            found,
            runtime: io.elapsed_s() - began,
            batches: rows.len().div_ceil(batch.max(1)),
            accuracy: run.config.compute_accuracy,
        });
    }
    Ok(all)
}

fn history(pairs: &[(&str, Value)]) -> Map<String, Value> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect()
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
