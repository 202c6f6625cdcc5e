//! What the arguments say about the optimiser: its constants and the learning rate's course.

use std::collections::BTreeSet;

use run::config::Config;
use run::fields::{BadamMode, GaloreProjType, Optim, SchedulerType};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::store::{Grads, Param, Params, Role};
use crate::ops::head::Objective;
use crate::optim::adamw::AdamW;
use crate::optim::galore::{GaLore, Side};
use crate::optim::lion::Lion;
use crate::optim::lora_plus::Factors;
use crate::optim::rule::{self, Rule};
use crate::optim::schedule::{Kind, Schedule};
use crate::step::Optimiser;

/// The optimiser of a run whose trained parameters are decided.
///
/// # Errors
/// When `galore_target` names nothing.
pub fn optimiser(config: &Config, decoder: &Decoder) -> Result<Optimiser> {
    Ok(Optimiser {
        rule: rule(config, &decoder.params)?,
        slots: rule::State::new(),
        max_grad_norm: config.max_grad_norm,
        weight_decay: config.weight_decay,
        factors: factors(config, decoder),
        grads: Grads::new(&decoder.params),
    })
}

/// What a run minimises.
#[must_use]
pub fn objective(config: &Config) -> Objective {
    match config.label_smoothing_factor {
        _ if config.use_dft_loss => Objective::Dft,
        e if e > 0.0 => Objective::Smoothed(e as f32),
        _ => Objective::CrossEntropy,
    }
}

/// What the learning rate is multiplied by: LoRA+ has the B matrices learn faster.
fn factors(config: &Config, decoder: &Decoder) -> Factors {
    match config.loraplus_lr_ratio {
        None => Factors::default(),
        Some(ratio) => {
            let embedding = config.loraplus_lr_embedding / config.learning_rate;
            Factors::new(&decoder.params, ratio, embedding)
        }
    }
}

/// The update rule of a run.
fn rule(config: &Config, params: &Params) -> Result<Rule> {
    let (beta1, beta2) = (config.adam_beta1, config.adam_beta2);
    let adam = AdamW { beta1, beta2, eps: config.adam_epsilon };
    if config.use_badam && config.badam_mode == BadamMode::Ratio {
        return Ok(Rule::SparseAdam(adam));
    }
    let rule = match config.optim {
        Optim::AdamwTorch | Optim::AdamwTorchFused | Optim::PagedAdamw32bit => Rule::AdamW(adam),
        Optim::Adamw8bit | Optim::AdamwBnb8bit | Optim::PagedAdamw8bit => Rule::AdamW8(adam),
        Optim::Adafactor => Rule::Adafactor,
        Optim::Sgd => Rule::Sgd,
        Optim::Lion32bit | Optim::PagedLion32bit => Rule::Lion(Lion { beta1, beta2 }),
        Optim::Lion8bit | Optim::PagedLion8bit => Rule::Lion8(Lion { beta1, beta2 }),
    };
    if !config.use_galore {
        return Ok(rule);
    }
    Ok(Rule::GaLore(Box::new(GaLore {
        inner: rule,
        targets: galore_targets(config, params)?,
        rank: config.galore_rank,
        interval: config.galore_update_interval as u64,
        scale: config.galore_scale,
        side: match config.galore_proj_type {
            GaloreProjType::Std => Side::Std,
            GaloreProjType::ReverseStd => Side::ReverseStd,
            GaloreProjType::Right => Side::Right,
            GaloreProjType::Left => Side::Left,
            GaloreProjType::Full => Side::Full,
        },
    })))
}

/// Names of the trained matrices that GaLore projects: linear layers whose name contains one of
/// `galore_target`; `all` is each but the head.
fn galore_targets(config: &Config, params: &Params) -> Result<BTreeSet<String>> {
    let wanted = &config.galore_target;
    let all = wanted.len() == 1 && wanted[0] == "all";
    let linear = |p: &Param| match p.role {
        Role::Matrix => true,
        Role::Embedding => !all && p.name == "lm_head.weight",
        _ => false,
    };
    let trained = || params.iter().map(|(_, p)| p).filter(|p| p.trainable && linear(p));
    let named = |p: &&Param| all || wanted.iter().any(|w| p.name.contains(w.as_str()));
    let found: BTreeSet<String> = trained().filter(named).map(|p| p.name.clone()).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let module = |p: &Param| Some(p.name.strip_suffix(".weight")?.rsplit('.').next()?.to_owned());
    let known: BTreeSet<String> = trained().filter_map(module).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    let why = format!("no trained linear layer is called {}; there are {known}", wanted.join(", "));
    Err(Error::input("galore_target", why))
}

/// The learning rate's course over `total` steps.
///
/// # Errors
/// When `lr_scheduler_kwargs` lacks what the schedule needs, or holds what it does not know.
pub fn schedule(config: &Config, total: u64) -> Result<Schedule> {
    let warmup = config.warmup(total);
    let kwargs = Kwargs::of(config);
    let after = total.saturating_sub(warmup);
    let kind = match config.lr_scheduler_type {
        SchedulerType::Linear => Kind::Linear,
        SchedulerType::Constant => Kind::Constant,
        SchedulerType::ConstantWithWarmup => Kind::ConstantWithWarmup,
        SchedulerType::Cosine => Kind::Cosine { cycles: kwargs.get("num_cycles")?.unwrap_or(0.5) },
        SchedulerType::CosineWithRestarts => {
            Kind::CosineWithRestarts { cycles: kwargs.get("num_cycles")?.unwrap_or(1.0) }
        }
        SchedulerType::Polynomial => Kind::Polynomial {
            power: kwargs.get("power")?.unwrap_or(1.0),
            end: kwargs.get("lr_end")?.unwrap_or(1e-7) / config.learning_rate,
        },
        SchedulerType::InverseSqrt => {
            let otherwise = if warmup > 0 { warmup as f64 } else { 10_000.0 };
            Kind::InverseSqrt { timescale: kwargs.get("timescale")?.unwrap_or(otherwise) }
        }
        SchedulerType::CosineWithMinLr => Kind::CosineWithMin { min: kwargs.min_rate(config)? },
        SchedulerType::CosineWarmupWithMinLr => Kind::CosineWarmupWithMin {
            min: kwargs.min_rate(config)?,
            from: kwargs.get("warmup_lr_rate")?,
        },
        SchedulerType::WarmupStableDecay => {
            let stable = kwargs.get("num_stable_steps")?.map_or(after / 3, |s| s as u64);
            let decay =
                kwargs.get("num_decay_steps")?.map_or(after - stable.min(after), |s| s as u64);
            Kind::WarmupStableDecay {
                stable,
                decay,
                min: kwargs.get("min_lr_ratio")?.unwrap_or(0.0),
            }
        }
        // What evaluations make of it is `watch`'s matter.
        SchedulerType::ReduceLrOnPlateau => {
            return Ok(Schedule { kind: Kind::Constant, warmup: 0, total });
        }
    };
    kwargs.all_known()?;
    Ok(Schedule { kind, warmup, total })
}

/// `lr_scheduler_kwargs`, and which of them were asked for.
struct Kwargs<'a> {
    given: Option<&'a serde_json::Map<String, Value>>,
    read: std::cell::RefCell<Vec<&'static str>>,
}

impl<'a> Kwargs<'a> {
    fn of(config: &'a Config) -> Self {
        Self { given: config.lr_scheduler_kwargs.as_ref(), read: Vec::new().into() }
    }

    fn get(&self, name: &'static str) -> Result<Option<f64>> {
        self.read.borrow_mut().push(name);
        let Some(value) = self.given.and_then(|map| map.get(name)) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|v| v.is_finite() && *v >= 0.0);
        let why = || format!("`{name}` must be a number of at least 0, not {value}");
        number.map(Some).ok_or_else(|| Error::input("lr_scheduler_kwargs", why()))
    }

    fn min_rate(&self, config: &Config) -> Result<f64> {
        let (min_lr, rate) = (self.get("min_lr")?, self.get("min_lr_rate")?);
        match (min_lr, rate) {
            (Some(_), Some(_)) | (None, None) => Err(Error::input(
                "lr_scheduler_kwargs",
                format!("{} needs one of `min_lr` and `min_lr_rate`", config.lr_scheduler_type),
            )),
            (Some(min_lr), None) => Ok(min_lr / config.learning_rate),
            (None, Some(rate)) => Ok(rate),
        }
    }

    fn all_known(&self) -> Result<()> {
        let read = self.read.borrow();
        let unknown = self.given.into_iter().flatten().find(|(k, _)| !read.contains(&k.as_str()));
        let Some((name, _)) = unknown else {
            return Ok(());
        };
        let known = match read.is_empty() {
            true => "this schedule takes none".to_owned(),
            false => format!("this schedule knows {}", read.join(", ")),
        };
        Err(Error::input("lr_scheduler_kwargs", format!("`{name}` is unknown; {known}")))
    }
}
