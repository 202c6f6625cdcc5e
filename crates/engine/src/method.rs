//! What the arguments say about the optimiser: its constants and the learning rate's course.

use run::config::Config;
use run::fields::{BadamMode, SchedulerType};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::decoder::Decoder;
use crate::model::store::Grads;
use crate::optim::adamw::AdamW;
use crate::optim::rule::{self, Rule};
use crate::optim::schedule::{Kind, Schedule};
use crate::step::Optimiser;

/// The optimiser of a run whose trained parameters are decided.
#[must_use]
pub fn optimiser(config: &Config, decoder: &Decoder) -> Optimiser {
    Optimiser {
        rule: rule(config),
        slots: rule::State::new(),
        max_grad_norm: config.max_grad_norm,
        weight_decay: config.weight_decay,
        grads: Grads::new(&decoder.params),
    }
}

/// The update rule of a run.
fn rule(config: &Config) -> Rule {
    let adam =
        AdamW { beta1: config.adam_beta1, beta2: config.adam_beta2, eps: config.adam_epsilon };
    match config.use_badam && config.badam_mode == BadamMode::Ratio {
        true => Rule::SparseAdam(adam),
        false => Rule::AdamW(adam),
    }
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
        SchedulerType::ReduceLrOnPlateau => {
            return Err(Error::input("lr_scheduler_type", "reduce_lr_on_plateau is not supported"));
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
