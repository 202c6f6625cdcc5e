//! What a run would be before it starts: rows, cuts, steps, tokens, layers that BAdam reaches, bytes of checkpoints.
//!
//! Counted with the run's own tokenizer and template. What only the run itself can know is left out.

use std::collections::BTreeSet;

use engine::data::order::HoldOut;
use engine::model::config::ModelConfig;
use engine::model::params::{ParamKind, ParamSpec, expected_params};
use engine::optim::badam::Order;
use engine::plan::Plan as Steps;
use engine::prepare;
use run::config::Config;
use run::fields::{BadamMode, FinetuningType, SaveStrategy};

use super::kit::Wanted;
use super::lengths::Lengths;
use super::{Library, LibraryError, Patience, Result};

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
    /// Bytes that are free where they go.
    pub free: Option<u64>,
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
                plan.of_model(&config, &model);
            }
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
        self.kept += scaled(cut.kept);
        self.truncated += scaled(cut.truncated);
        self.dropped += scaled(cut.dropped);
        self.tokens += scaled(cut.tokens);
        rows - scaled(cut.dropped).min(rows)
    }

    /// What follows from the model's shape.
    fn of_model(&mut self, config: &Config, model: &ModelConfig) {
        let specs = expected_params(model);
        let parameters = specs.iter().map(size).sum();
        self.parameters = Some(parameters);
        if config.use_badam && config.badam_mode == BadamMode::Layer {
            let reached = Order::new(config, model.num_hidden_layers);
            self.badam = reached
                .ok()
                .map(|order| (order.reached(self.steps).len(), model.num_hidden_layers));
        }
        let trained = match config.finetuning_type {
            FinetuningType::Full => Some(parameters),
            FinetuningType::Lora => adapter(config, &specs),
            FinetuningType::Freeze => None,
        };
        // f32 weights and AdamW's two moments each; other optimisers remember other things
        let plain = !config.use_galore && !config.use_dora && !config.use_badam;
        let saves = config.save_strategy != SaveStrategy::No
            && (config.save_only_model || plain && config.optim == Config::default().optim);
        if let Some(trained) = trained.filter(|_| saves) {
            let moments = if config.save_only_model { 0 } else { trained };
            let one = 4 * trained + 8 * moments;
            let every = config.save_every(self.steps).unwrap_or(self.steps);
            let made = self.steps / every.max(1);
            let kept = config.save_total_limit.map_or(u64::MAX, |most| most as u64);
            // the newest is whole before the oldest goes
            let at_once = made.min(kept.saturating_add(1));
            self.checkpoints = (at_once > 0).then_some((at_once, one));
        }
    }
}

fn size(spec: &ParamSpec) -> u64 {
    spec.shape.iter().map(|side| *side as u64).product()
}

/// Parameters of a LoRA adapter on `lora_target`; `None` where further modules are trained whole.
fn adapter(config: &Config, specs: &[ParamSpec]) -> Option<u64> {
    if !config.additional_target.is_empty() {
        return None;
    }
    let targets: BTreeSet<&str> = config.lora_target.iter().map(String::as_str).collect();
    let all = targets.is_empty() || targets.contains("all");
    let hit = |spec: &&ParamSpec| {
        let module = spec.name.trim_end_matches(".weight").rsplit('.').next().unwrap_or_default();
        spec.kind == ParamKind::Matrix && (all || targets.contains(module))
    };
    let sides = |spec: &ParamSpec| spec.shape.iter().map(|side| *side as u64).sum::<u64>();
    let rank = config.lora_rank as u64;
    Some(specs.iter().filter(hit).map(|spec| rank * sides(spec)).sum())
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
        let few = Config { max_samples: Some(50), ..config };
        assert_eq!(plan.add(&lengths, &few), 50);
        assert_eq!(plan.rows, 250);
        for (val_size, expected) in [(0.0, 0), (0.1, 10), (7.0, 7), (1e9, 99)] {
            assert_eq!(held_out(&Config { val_size, ..Config::default() }, 100), expected);
        }
    }
}
