//! What a run would be before it starts: rows, cuts, steps, tokens, layers that BAdam reaches, memory, bytes on the disk.
//!
//! Counted with the run's own tokenizer and template. What only the run itself can know is left out.

use engine::data::order::HoldOut;
use engine::model::config::ModelConfig;
use engine::model::hub::ModelLocation;
use engine::model::params::expected_params;
use engine::optim::badam::Order;
use engine::plan::Plan as Steps;
use engine::{estimate, prepare};
use run::config::Config;
use run::estimate::Estimate;
use run::fields::{BadamMode, FinetuningType, SaveStrategy};

use super::kit::Wanted;
use super::lengths::Lengths;
use super::{Library, LibraryError, Patience, Result};
use crate::machine::Machine;

/// Rows of a plan at most.
const MOST_ROWS: usize = 50_000_000;

/// The numbers of a run to be.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Rows that are read.
    pub rows: u64,
    /// Of these, rows that stay whole.
    pub kept: u64,
    /// Rows that the cutoff shortens.
    pub truncated: u64,
    /// Rows that are left out.
    pub dropped: u64,
    /// Rows held out for evaluation.
    pub held_out: u64,
    /// Tokens of an epoch.
    pub tokens: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Passes over the data.
    pub epochs: f64,
    /// Whether the counts are those of a share of the rows, scaled up, or of packs that are not made yet.
    pub rough: bool,
    /// Parameters of the model.
    pub parameters: Option<u64>,
    /// Layers that BAdam trains within these steps, of all.
    pub badam: Option<(usize, usize)>,
    /// Checkpoints that will lie on the disk at once, and bytes of one.
    pub checkpoints: Option<(u64, u64)>,
    /// Bytes of the model or adapter that is written at the end.
    pub output: Option<u64>,
    /// Bytes that are free where they go.
    pub free: Option<u64>,
    /// Tokens of the longest row, uncut.
    pub longest: usize,
    /// Parameters that are trained.
    pub trained: Option<u64>,
    /// Memory in parts.
    pub memory: Option<Estimate>,
    /// Bytes of memory that are free, and all there are.
    pub ram: (u64, u64),
}

impl Library {
    /// The numbers of a configuration whose paths are resolved.
    ///
    /// # Errors
    /// What is wrong with model, template or data; or patience ends.
    pub async fn plan(&self, config: &Config, patience: Patience) -> Result<Plan> {
        let wanted = Wanted::of(config);
        let home = self.home(&config.dataset_dir)?;
        let mut plan = Plan::default();
        let mut usable = 0;
        for name in &config.dataset {
            let opened = self.opened(home.clone(), name).await?;
            let lengths = self.lengths(&opened, &wanted, patience).await?;
            usable += plan.add(&lengths, config);
        }
        if usable == 0 {
            return Err(LibraryError::wrong("dataset", "no row can be used"));
        }
        let held = held_out(config, usable);
        plan.held_out = held;
        let mut units = usable - held;
        if config.packs() {
            units = plan.tokens.div_ceil(config.cutoff_len.max(1) as u64).max(1);
            plan.rough = true;
        }
        let location = self.locate(&wanted.model, &wanted.revision)?;
        let (config, units) = (config.clone(), usize::try_from(units).unwrap_or(usize::MAX));
        self.blocking(move |library| {
            // the plan asks how many rows there are; their lengths decide the order alone
            let steps = Steps::new(&config, &vec![1; units.min(MOST_ROWS)]);
            let steps = steps.map_err(|error| LibraryError::wrong("dataset", error.to_string()))?;
            (plan.steps, plan.epochs) = (steps.total_steps, steps.epochs);
            if let Ok(model) = prepare::read_config(&location) {
                plan.of_model(&config, &location, &model)?;
            }
            let machine = Machine::look();
            plan.ram = (machine.memory_free, machine.memory);
            let place = config.output_dir.clone().filter(|dir| std::path::Path::new(dir).exists());
            let data = library.0.roots.data_dir().display().to_string();
            plan.free = run::atomic::free_bytes(place.unwrap_or(data)).ok();
            Ok(plan)
        })
        .await
    }
}

impl Plan {
    /// Adds a data set; gives how many of its rows can be used.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of rows are far below 2^52"
    )]
    fn add(&mut self, lengths: &Lengths, config: &Config) -> u64 {
        let seen = lengths.measured + lengths.bad;
        let most = config.max_samples.map_or(u64::MAX, |most| most as u64);
        let rows = lengths.total.min(most);
        let scale = rows as f64 / seen.max(1) as f64;
        self.rough |= rows != seen;
        let scaled = |n: u64| (n as f64 * scale).round() as u64;
        let cut = lengths.cut(config.cutoff_len);
        self.rows += rows;
        self.longest = self.longest.max(lengths.longest());
        self.kept += scaled(cut.kept);
        self.truncated += scaled(cut.truncated);
        self.dropped += scaled(cut.dropped);
        self.tokens += scaled(cut.tokens);
        rows - scaled(cut.dropped).min(rows)
    }

    /// What follows from the model's shape.
    fn of_model(
        &mut self,
        config: &Config,
        location: &ModelLocation,
        model: &ModelConfig,
    ) -> Result<()> {
        let specs = expected_params(model);
        let sides = |spec: &[usize]| spec.iter().map(|side| *side as u64).product::<u64>();
        let parameters = specs.iter().map(|spec| sides(&spec.shape)).sum();
        self.parameters = Some(parameters);
        if config.use_badam && config.badam_mode == BadamMode::Layer {
            let reached = Order::new(config, model.num_hidden_layers);
            self.badam = reached
                .ok()
                .map(|order| (order.reached(self.steps).len(), model.num_hidden_layers));
        }
        let counts = estimate::trained(config, model).map_err(wrong)?;
        let trained = counts.added + counts.chosen;
        self.trained = Some(trained);
        self.memory = Some(self.memory(config, location, model)?);
        // an adapter alone, else the whole model; f32, with AdamW's two moments of what is trained
        let lora = config.finetuning_type == FinetuningType::Lora;
        let written = 4 * if lora { trained } else { parameters };
        self.output = Some(written);
        // other optimisers remember other things
        let plain = !config.use_galore && !config.use_badam;
        let known = config.save_only_model || plain && config.optim == Config::default().optim;
        if known && config.save_strategy != SaveStrategy::No {
            let moments = if config.save_only_model { 0 } else { 8 * trained };
            let every = config.save_every(self.steps).unwrap_or(self.steps);
            let made = self.steps / every.max(1);
            let kept = config.save_total_limit.map_or(u64::MAX, |most| most as u64);
            // the newest is whole before the oldest goes
            let at_once = made.min(kept.saturating_add(1));
            self.checkpoints = (at_once > 0).then_some((at_once, written + moments));
        }
        Ok(())
    }

    /// The memory of the run, with what is known of its rows: how many there are, and how long at most.
    fn memory(
        &self,
        config: &Config,
        location: &ModelLocation,
        model: &ModelConfig,
    ) -> Result<Estimate> {
        let mut config = config.clone();
        if !config.packs() && self.longest > 0 {
            config.cutoff_len = config.cutoff_len.min(self.longest);
        }
        let rows = usize::try_from(self.rows).unwrap_or(MOST_ROWS);
        config.max_samples = Some(rows.min(MOST_ROWS));
        estimate::of_model(&config, location, model).map_err(wrong)
    }
}

/// An error of the engine about an argument.
fn wrong(error: engine::error::Error) -> LibraryError {
    match error {
        engine::error::Error::Input { what, why } => {
            let known = ["lora_target", "additional_target", "freeze_trainable_modules"];
            let field = known.into_iter().find(|name| *name == what);
            LibraryError::wrong(field.unwrap_or("model_name_or_path"), why)
        }
        other => LibraryError::wrong("model_name_or_path", other.to_string()),
    }
}

/// Rows that are held out of `rows`; one at least is left to train on.
fn held_out(config: &Config, rows: u64) -> u64 {
    let all = usize::try_from(rows).unwrap_or(usize::MAX);
    let held = HoldOut::of(config.val_size).map_or(0, |hold_out| hold_out.count(all));
    (held as u64).min(rows.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_several_sets_add_up() {
        let lengths = Lengths {
            rows: [(10, 80), (30, 20)].into_iter().collect(),
            measured: 100,
            total: 200,
            ..Lengths::default()
        };
        let config = Config { cutoff_len: 20, ..Config::default() };
        let mut plan = Plan::default();
        assert_eq!(plan.add(&lengths, &config), 200);
        assert_eq!((plan.kept, plan.truncated, plan.tokens, plan.rough), (160, 40, 2400, true));
        assert_eq!(plan.longest, 30);
        let few = Config { max_samples: Some(50), ..config };
        assert_eq!(plan.add(&lengths, &few), 50);
        assert_eq!(plan.rows, 250);
        for (val_size, expected) in [(0.0, 0), (0.1, 10), (7.0, 7), (1e9, 99)] {
            assert_eq!(held_out(&Config { val_size, ..Config::default() }, 100), expected);
        }
    }
}
