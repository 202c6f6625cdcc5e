//! What a run says while it steps: metrics at the logging steps, evaluation, samples, progress.

use run::config::Config;
use run::event::{Body, Phase};
use run::fields::{IntervalStrategy, SaveStrategy};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::eval;
use crate::observer::Observer;
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
    pub fn begin(run: &Run<'_>, io: &mut dyn Observer) -> Result<Self> {
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
        Ok(Self { began_s: now, began_tokens: tokens, told_s: now, last: (now, tokens) })
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
            run.config.logging_strategy == IntervalStrategy::Epoch && run.plan.ends_epoch(step);
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

    /// Whether an evaluation is due after `step` steps.
    #[must_use]
    pub fn evaluates_at(&self, run: &Run<'_>, step: u64) -> bool {
        if run.prepared.eval.is_empty() {
            return false;
        }
        let every = run.config.eval_every(run.plan.total_steps);
        every.is_some_and(|n| step.is_multiple_of(n))
            || (run.config.eval_strategy == IntervalStrategy::Epoch && run.plan.ends_epoch(step))
    }

    /// Whether a checkpoint is due after `step` steps; the last step has one unless saving is off.
    #[must_use]
    pub fn saves_at(&self, run: &Run<'_>, step: u64) -> bool {
        let config: &Config = run.config;
        let every = config.save_every(run.plan.total_steps);
        let by_steps = every.is_some_and(|n| step.is_multiple_of(n));
        let by_epoch = config.save_strategy == SaveStrategy::Epoch && run.plan.ends_epoch(step);
        let last = step == run.plan.total_steps && config.save_strategy != SaveStrategy::No;
        by_steps || by_epoch || last
    }

    /// Evaluates every set and tells the losses.
    ///
    /// # Errors
    /// When it cannot be computed or written down.
    pub fn evaluate(&mut self, run: &mut Run<'_>, io: &mut dyn Observer) -> Result<()> {
        let (step, total) = (run.state.step, run.plan.total_steps);
        let epoch = run.plan.epoch_after(step);
        for (key, found, runtime) in evaluate_sets(run, io)? {
            let rows = found.rows as f64;
            run.state.log_history.push(history(&[
                ("epoch", json!(epoch)),
                (&format!("{key}_loss"), json!(found.eval_loss)),
                (&format!("{key}_runtime"), json!(runtime)),
                (&format!("{key}_samples_per_second"), json!(rows / runtime.max(1e-9))),
                ("step", json!(step)),
            ]));
            let names = [format!("{key}_loss"), format!("{key}_token_loss")];
            let values = [(&*names[0], found.eval_loss), (&*names[1], found.token_loss)];
            io.event(Body::metric(step, total, epoch, &values))?;
        }
        // The last answer comes with the finished model.
        if step < total {
            sample::tell(run, io)?;
        }
        io.phase(Phase::Training)?;
        // The next speed should not count this time.
        self.last = (io.elapsed_s(), run.state.total_tokens);
        Ok(())
    }

    /// Tokens trained on and seconds in this session.
    #[must_use]
    pub fn session(&self, run: &Run<'_>, io: &dyn Observer) -> (u64, f64) {
        (run.state.total_tokens - self.began_tokens, io.elapsed_s() - self.began_s)
    }
}

/// (`eval` or `eval_<name>`, losses, seconds) of every evaluation set.
///
/// # Errors
/// When it cannot be computed or written down.
pub fn evaluate_sets(
    run: &Run<'_>,
    io: &mut dyn Observer,
) -> Result<Vec<(String, eval::EvalLoss, f64)>> {
    let mut found = Vec::new();
    for (name, rows) in &run.prepared.eval {
        let key = if name.is_empty() { "eval".to_owned() } else { format!("eval_{name}") };
        let began = io.elapsed_s();
        let mut told = began;
        let total = rows.len() as u64;
        io.progress(Phase::Evaluating, 0, total)?;
        let batch = run.config.per_device_eval_batch_size;
        let losses = eval::run(&run.prepared.decoder, rows, batch, |done| {
            if io.elapsed_s() - told < PROGRESS_EVERY_S {
                return Ok(());
            }
            told = io.elapsed_s();
            io.progress(Phase::Evaluating, done as u64, total)
        })?;
        found.push((key, losses, io.elapsed_s() - began));
    }
    Ok(found)
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
