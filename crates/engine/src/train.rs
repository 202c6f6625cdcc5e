//! The training loop, top to bottom.
//!
//! `train` prepares everything, resumes or starts, steps until the plan is done or a wish ends it,
//! and writes the finished model. An observer may watch and wish, never steer.

use std::path::PathBuf;

use run::config::Config;
use run::control::Wish;
use run::dir::RunDir;
use run::event::{Body, Phase};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::model::decoder::Keep;
use crate::model::linear::Mode;
use crate::observer::Observer;
use crate::optim::badam::Badam;
use crate::optim::schedule::Schedule;
use crate::passes::{self, One, Passes};
use crate::plan::{EpochOrder, Plan};
use crate::prepare::{self, Prepared, Surroundings};
use crate::report::{self, Reporter};
use crate::state::State;
use crate::step::{self, Measured, Optimiser, Updated};
use crate::watch::Rules;
use crate::{finish, memory, method, sample};

/// Steps in a row that may be refused for a loss or gradient that is not finite.
const REFUSALS: u32 = 3;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step is done and the model is written.
    Finished,
    /// A wish ended it at this step; a checkpoint of it may exist.
    Stopped(u64),
}

/// A run in progress: what the loop moves.
pub struct Run<'a> {
    /// Its arguments.
    pub config: &'a Config,
    /// Its folder.
    pub dir: RunDir,
    /// Model, tokenizer and rows.
    pub prepared: Prepared,
    /// Moments and gradient buffers.
    pub optimiser: Optimiser,
    /// Which block of weights is trained at which step, where it is not all of them.
    pub badam: Option<Badam>,
    /// Which rows come when.
    pub plan: Plan,
    /// The learning rate's course.
    pub schedule: Schedule,
    /// Counters.
    pub state: State,
    /// What evaluations decide.
    pub rules: Rules,
    /// Threads that compute.
    pub threads: usize,
    /// Rows that are computed at once, at most.
    pub rows_at_once: usize,
    /// What the layers may keep between forward and backward.
    pub keep: Keep,
}

/// Trains as `config` says, in `config.output_dir`.
///
/// # Errors
/// When an input cannot be used, the disk is full, or loss and gradients stay not finite. What is
/// complete on disk stays.
pub fn train(config: &Config, around: &Surroundings, io: &mut dyn Observer) -> Result<Outcome> {
    around.install(config, |threads| {
        let mut run = Run::begin(config, around, threads, io)?;
        if config.only_predicts() {
            finish::measure_only(&run, io)?;
            return Ok(Outcome::Finished);
        }
        let outcome = run.steps(io)?;
        if outcome == Outcome::Finished {
            finish::write(&mut run, io)?;
        }
        Ok(outcome)
    })
}

impl<'a> Run<'a> {
    /// Loads everything and goes to the newest complete checkpoint, or to step 0.
    fn begin(
        config: &'a Config,
        around: &Surroundings,
        threads: usize,
        io: &mut dyn Observer,
    ) -> Result<Self> {
        let dir = config.output_dir.as_ref().map(PathBuf::from);
        let dir = RunDir::new(dir.ok_or_else(|| {
            Error::input("output_dir", "is missing: name the folder that the run writes to")
        })?);
        let resume = match config.only_predicts() {
            true => None,
            false => checkpoint::choose(config, &dir, io)?,
        };
        let from = resume.as_ref().map(|r| r.path.as_path());
        let prepared = prepare::load(config, around, from, io)?;
        let mut run = Self::of(config, dir, prepared, threads)?;
        if let Some(resume) = &resume {
            checkpoint::load(&mut run, &resume.path)?;
            checkpoint::compare(&run, resume, io)?;
        }
        run.choose_block(io)?;
        run.fit_into(around.memory, io)?;
        finish::write_start(&run)?;
        io.rewind(run.state.step)?;
        Ok(run)
    }

    /// As [`Run::begin`], at step 0 whatever lies in the folder.
    pub(crate) fn fresh(
        config: &'a Config,
        dir: RunDir,
        around: &Surroundings,
        threads: usize,
        io: &mut dyn Observer,
    ) -> Result<Self> {
        let prepared = prepare::load(config, around, None, io)?;
        let mut run = Self::of(config, dir, prepared, threads)?;
        run.choose_block(io)?;
        run.fit_into(around.memory, io)?;
        Ok(run)
    }

    fn of(config: &'a Config, dir: RunDir, prepared: Prepared, threads: usize) -> Result<Self> {
        let lengths = prepared.train.lengths(config.cutoff_len);
        let plan = match config.only_predicts() && lengths.is_empty() {
            true => Plan::new(config, &[1])?,
            false => Plan::new(config, &lengths)?,
        };
        let rules = Rules::new(config, &report::metric_names(config, &prepared))?;
        let schedule = method::schedule(config, plan.total_steps)?;
        let optimiser = method::optimiser(config, &prepared.decoder)?;
        let badam = Badam::new(config, &prepared.decoder.params)?;
        let state = State::default();
        let rows_at_once = config.per_device_train_batch_size;
        Ok(Self {
            config,
            dir,
            prepared,
            optimiser,
            badam,
            plan,
            schedule,
            state,
            rules,
            threads,
            rows_at_once,
            keep: Keep::Intermediates,
        })
    }

    /// Steps until the plan is done or a wish ends the run.
    fn steps(&mut self, io: &mut dyn Observer) -> Result<Outcome> {
        let mut reporter = Reporter::begin(self, io)?;
        let mut order = EpochOrder::default();
        while self.state.step < self.plan.total_steps && !self.state.watch.stopped {
            let (measured, lr) = self.next(&mut order, io)?;

            // say, evaluate, save: at this step or not at all
            reporter.stepped(self, &measured, lr, io)?;
            let now = self.state.step;
            let mut best = false;
            if reporter.evaluates_at(self, now) {
                let metrics = reporter.evaluate(self, io)?;
                best = self.state.watch.heard(&self.rules, now, lr, &metrics);
            }
            let wish = io.wish();
            if wish == Wish::SampleNow {
                sample::tell(self, io)?;
            }
            let stopping = wish == Wish::StopAndSave && now < self.plan.total_steps;
            if reporter.saves_at(self, now) || best || stopping || wish == Wish::SaveNow {
                io.phase(Phase::Saving)?;
                self.state.watch.saving(now);
                let saved = checkpoint::save(self)?;
                io.event(Body::Checkpoint { step: now, dir: saved })?;
                checkpoint::prune(self)?;
                io.phase(Phase::Training)?;
            }
            if (stopping || wish == Wish::StopNow) && now < self.plan.total_steps {
                return Ok(Outcome::Stopped(now));
            }
        }
        if self.state.watch.stopped && self.state.step < self.plan.total_steps {
            io.say(format!(
                "Stopped early after {} steps: {} evaluations without progress",
                self.state.step, self.state.watch.waited
            ))?;
        }
        Ok(Outcome::Finished)
    }

    /// One optimiser step, and its learning rate.
    pub(crate) fn next(
        &mut self,
        order: &mut EpochOrder,
        io: &mut dyn Observer,
    ) -> Result<(Measured, f64)> {
        self.choose_block(io)?;
        let before = self.state.step;
        let passes = self.passes(order, io)?;
        let scheduled = self.config.learning_rate * self.schedule.factor(before);
        let lr = self.state.watch.lr(scheduled);
        let measured = self.step(&passes, lr)?;
        self.refuse_or_go_on(&measured, io)?;
        Ok((measured, lr))
    }

    /// The rows of the next step in memory, as they are computed together; tells what was wrong with any.
    pub(crate) fn passes(
        &mut self,
        order: &mut EpochOrder,
        io: &mut dyn Observer,
    ) -> Result<Passes> {
        let step = self.state.step;
        let mut parts = self.plan.micro_batches(step, order);
        let Prepared { train, tokenizer, template, decoder, .. } = &mut self.prepared;
        let lines = train.fetch(&parts, tokenizer.as_ref().zip(template.as_ref()))?;
        lines.into_iter().try_for_each(|line| io.warn(line))?;
        let length = |row: usize| train.get(row).map_or(0, |row| row.input_ids.len());
        let keep = self.keep;
        if self.rows_at_once < self.config.per_device_train_batch_size {
            let few = parts.iter().flat_map(|rows| rows.chunks(self.rows_at_once));
            parts = few.map(<[_]>::to_vec).collect();
            return Ok(Passes { rows: passes::of(&parts, length, 0), keep });
        }
        let tokens = |rows: &Vec<usize>| rows.iter().map(|row| length(*row)).sum::<usize>();
        let own = parts.iter().map(tokens).max().unwrap_or(0);
        let mut room = self.plan.largest_yet(step, order);
        // Passes that share rows compute nothing again for it.
        if let Some(mib) = self.config.activation_memory {
            room = room.min(memory::tokens_kept(decoder, (mib as u64) << 20));
        }
        let several = Passes { rows: passes::of(&parts, length, room), keep };
        let (all, largest) = (parts.iter().map(tokens).sum(), room.max(own));
        let grads = &self.optimiser.grads;
        let Some((keep, again)) = memory::only_pass(decoder, grads, keep, largest, all) else {
            return Ok(several);
        };
        let (trained, params) = decoder.params.counts();
        let trained = trained as f64 / params.max(1) as f64;
        Ok(several.or(One { rows: parts.concat(), tokens: all, keep, again, trained }))
    }

    fn step(&mut self, passes: &Passes, lr: f64) -> Result<Measured> {
        let train = &self.prepared.train;
        let rows: Vec<Vec<_>> =
            passes.rows.iter().map(|rows| train.pick(rows)).collect::<Result<_>>()?;
        let (seed, first) = (self.config.seed, self.plan.micro_step(self.state.step));
        let mode = |m| Mode::Train { seed, micro_step: first + m };
        step::run(&self.prepared.decoder, &mut self.optimiser, &rows, lr, passes.keep, mode)
    }

    /// BAdam: goes to the step's block, whose moments begin anew. Does nothing within a block.
    fn choose_block(&mut self, io: &mut dyn Observer) -> Result<()> {
        let Some(badam) = &self.badam else { return Ok(()) };
        let ordinal = badam.ordinal(self.state.step);
        if self.state.block == Some(ordinal) {
            return Ok(());
        }
        self.optimiser.slots.clear();
        self.optimiser.grads = badam.activate(ordinal, &mut self.prepared.decoder.params);
        self.state.block = Some(ordinal);
        if self.config.badam_verbose < 1 {
            return Ok(());
        }
        let step = self.state.step + 1;
        io.say(format!("BAdam: from step {step} on {} is trained", badam.name(ordinal)))?;
        let params = &self.prepared.decoder.params;
        match self.config.badam_verbose {
            ..2 => Ok(()),
            _ => io.say(
                params
                    .trained()
                    .iter()
                    .map(|id| &*params.get(*id).name)
                    .collect::<Vec<_>>()
                    .join("\n"),
            ),
        }
    }

    /// Counts the step; a few refused ones are passed over, more end the run.
    fn refuse_or_go_on(&mut self, measured: &Measured, io: &mut dyn Observer) -> Result<()> {
        let what = match measured.outcome {
            Updated::Yes => None,
            Updated::NoLabels => {
                io.warn(format!(
                    "step {}: no token of its rows carries a label (cut off by cutoff_len?); the \
                     weights did not move",
                    self.state.step + 1
                ))?;
                None
            }
            Updated::BadLoss => Some("loss"),
            Updated::BadGradient => Some("grad_norm"),
        };
        let Some(what) = what else {
            self.state.refused = 0;
            let params = self.prepared.decoder.params.counts().1 as f64;
            let flos = 6.0 * params * measured.tokens as f64;
            self.state.advance(measured.loss, measured.tokens, flos);
            return Ok(());
        };
        self.state.refused += 1;
        let step = self.state.step + 1;
        if self.state.refused > REFUSALS {
            return Err(Error::NonFinite { step, what });
        }
        io.warn(format!("step {step}: {what} is not finite; the weights did not move"))?;
        self.state.step += 1;
        self.state.total_tokens += measured.tokens;
        Ok(())
    }
}
