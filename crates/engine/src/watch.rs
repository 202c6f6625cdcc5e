//! What evaluations decide: which checkpoint is best, when to stop early, and the learning rate of
//! `reduce_lr_on_plateau`.
//!
//! Rules follow transformers (`_determine_best_metric`, `EarlyStoppingCallback`) and torch
//! (`ReduceLROnPlateau`), with one addition: where the best model is asked for, an evaluation that is
//! the best so far is saved at once, so that there is always a checkpoint of it.

use std::collections::BTreeMap;

use run::config::Config;
use run::fields::{SaveStrategy, SchedulerType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The arguments that say what evaluations decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The metric, as `eval_loss`; none decides nothing.
    metric: Option<String>,
    greater: bool,
    patience: Option<u64>,
    saves_best: bool,
    plateau: Option<Plateau>,
}

/// What evaluations have decided so far; part of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// The best evaluation.
    pub best: Option<Best>,
    /// The last step with a checkpoint that was the best so far.
    pub saved: Option<u64>,
    /// Evaluations since without progress.
    pub waited: u64,
    /// Whether patience is at an end.
    pub stopped: bool,
    /// Where the plateau schedule stands.
    pub plateau: Standing,
}

/// An evaluation that is the best so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The metric's value.
    pub value: f64,
    /// After how many steps.
    pub step: u64,
}

/// torch's `ReduceLROnPlateau`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plateau {
    greater: bool,
    factor: f64,
    patience: u64,
    threshold: f64,
    relative: bool,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
}

/// A plateau schedule's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    lr: Option<f64>,
    best: Option<f64>,
    bad: u64,
    cooldown: u64,
}

impl Rules {
    /// What `config` asks for, where evaluations tell the metrics called `known`.
    ///
    /// # Errors
    /// When the decisive metric is none of them, or `lr_scheduler_kwargs` cannot be used.
    pub fn new(config: &Config, known: &[String]) -> Result<Self> {
        let metric = config.decisive_metric().map(|name| format!("eval_{name}"));
        if let Some(metric) = metric.as_ref().filter(|m| !known.contains(m)) {
            return Err(Error::input(
                "metric_for_best_model",
                format!(
                    "is set to '{metric}', which is not found in the evaluation metrics. The available \
                     evaluation metrics are: {}",
                    if known.is_empty() {
                        "none (nothing is evaluated)".into()
                    } else {
                        known.join(", ")
                    }
                ),
            ));
        }
        let plateau = config.lr_scheduler_type == SchedulerType::ReduceLrOnPlateau;
        Ok(Self {
            metric,
            greater: config.greater_is_better(),
            patience: config.early_stopping_steps.map(|n| n as u64),
            saves_best: config.load_best_model_at_end || config.save_strategy == SaveStrategy::Best,
            plateau: if plateau { Some(Plateau::new(config)?) } else { None },
        })
    }
}

impl Watch {
    /// Takes in an evaluation; true where a checkpoint of it must be written.
    pub fn heard(
        &mut self,
        rules: &Rules,
        step: u64,
        lr: f64,
        metrics: &BTreeMap<String, f64>,
    ) -> bool {
        let found = rules.metric.as_ref().and_then(|metric| metrics.get(metric));
        let Some(value) = found.copied() else { return false };
        if let Some(plateau) = &rules.plateau {
            self.plateau.step(plateau, lr, value);
        }
        let better = |old: f64| if rules.greater { value > old } else { value < old };
        let progress = match self.best {
            Some(best) => better(best.value),
            None => value.is_finite(),
        };
        if progress {
            self.best = Some(Best { value, step });
            self.waited = 0;
        } else {
            self.waited += 1;
            self.stopped |= rules.patience.is_some_and(|patience| self.waited >= patience);
        }
        progress && rules.saves_best
    }

    /// Notes that a checkpoint of `step` is written.
    pub fn saving(&mut self, step: u64) {
        if self.best.is_some_and(|best| best.step == step) {
            self.saved = Some(step);
        }
    }

    /// The learning rate, where the schedule says `scheduled`.
    #[must_use]
    pub fn lr(&self, scheduled: f64) -> f64 {
        self.plateau.lr.unwrap_or(scheduled)
    }
}

impl Plateau {
    fn new(config: &Config) -> Result<Self> {
        let mut plateau = Self {
            greater: config.greater_is_better(),
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            relative: true,
            cooldown: 0,
            min_lr: 0.0,
            eps: 1e-8,
        };
        let field = "lr_scheduler_kwargs";
        for (name, value) in config.lr_scheduler_kwargs.iter().flatten() {
            let wrong =
                |what: &str| Error::input(field, format!("`{name}` must be {what}, not {value}"));
            let number = || {
                let number = value.as_f64().filter(|v| v.is_finite() && *v >= 0.0);
                number.ok_or_else(|| wrong("a number of at least 0"))
            };
            match (name.as_str(), value) {
                ("mode", Value::String(mode)) if matches!(&**mode, "min" | "max") => {
                    plateau.greater = mode == "max";
                }
                ("mode", _) => return Err(wrong("min or max")),
                ("threshold_mode", Value::String(mode)) if matches!(&**mode, "rel" | "abs") => {
                    plateau.relative = mode == "rel";
                }
                ("threshold_mode", _) => return Err(wrong("rel or abs")),
                ("factor", _) => {
                    plateau.factor = number()?;
                    if plateau.factor >= 1.0 {
                        return Err(wrong("below 1"));
                    }
                }
                ("patience", _) => plateau.patience = number()? as u64,
                ("threshold", _) => plateau.threshold = number()?,
                ("cooldown", _) => plateau.cooldown = number()? as u64,
                ("min_lr", _) => plateau.min_lr = number()?,
                ("eps", _) => plateau.eps = number()?,
                _ => {
                    let known =
                        "mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps";
                    let why = format!("`{name}` is unknown; this schedule knows {known}");
                    return Err(Error::input(field, why));
                }
            }
        }
        Ok(plateau)
    }

    fn better(&self, value: f64, best: f64) -> bool {
        match (self.greater, self.relative) {
            (false, true) => value < best * (1.0 - self.threshold),
            (false, false) => value < best - self.threshold,
            (true, true) => value > best * (self.threshold + 1.0),
            (true, false) => value > best + self.threshold,
        }
    }
}

impl Standing {
    fn step(&mut self, plateau: &Plateau, lr: f64, value: f64) {
        let progress = match self.best {
            Some(best) => plateau.better(value, best),
            None => value.is_finite(),
        };
        if progress {
            (self.best, self.bad) = (Some(value), 0);
        } else {
            self.bad += 1;
        }
        if self.cooldown > 0 {
            self.cooldown -= 1;
            self.bad = 0;
        }
        if self.bad > plateau.patience {
            let next = (lr * plateau.factor).max(plateau.min_lr);
            if lr - next > plateau.eps {
                self.lr = Some(next);
            }
            (self.cooldown, self.bad) = (plateau.cooldown, 0);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(more: Value) -> Rules {
        let (config, _) = Config::from_map(more.as_object().unwrap()).unwrap();
        Rules::new(&config, &["eval_loss".into(), "eval_accuracy".into()]).unwrap()
    }

    fn hear(watch: &mut Watch, rules: &Rules, step: u64, value: f64) -> bool {
        let name = rules.metric.clone().unwrap();
        watch.heard(rules, step, watch.lr(1.0), &[(name, value)].into())
    }

    #[test]
    fn best_and_patience() {
        let check = |more: Value, values: &[f64], best: u64, stopped_at: Option<u64>| {
            let (rules, mut watch) = (rules(more), Watch::default());
            let mut stopped = None;
            for (step, value) in values.iter().enumerate() {
                hear(&mut watch, &rules, step as u64, *value);
                if watch.stopped && stopped.is_none() {
                    stopped = Some(step as u64);
                }
            }
            assert_eq!((watch.best.unwrap().step, stopped), (best, stopped_at), "{values:?}");
        };
        let loss = || json!({"early_stopping_steps": 2, "load_best_model_at_end": true});
        check(loss(), &[3.0, 2.0, 2.5, 1.0, 1.0, 1.0], 3, Some(5));
        check(loss(), &[3.0, f64::NAN, 2.0, 2.0], 2, None);
        check(loss(), &[f64::NAN, 4.0], 1, None);
        let accuracy = json!({"metric_for_best_model": "accuracy", "early_stopping_steps": 1});
        check(accuracy, &[0.1, 0.3, 0.2], 1, Some(2));
        let least = json!({"metric_for_best_model": "eval_accuracy", "greater_is_better": false});
        check(least, &[0.1, 0.3, 0.05], 2, None);
    }

    #[test]
    fn a_best_evaluation_is_saved_where_it_is_needed() {
        let mut watch = Watch::default();
        let kept = rules(json!({"load_best_model_at_end": true}));
        assert!(hear(&mut watch, &kept, 1, 2.0));
        watch.saving(1);
        assert!(!hear(&mut watch, &kept, 2, 3.0));
        watch.saving(2);
        assert_eq!(watch.saved, Some(1));
        let told = rules(json!({"metric_for_best_model": "loss"}));
        assert!(!hear(&mut Watch::default(), &told, 1, 2.0));
        let (config, _) =
            Config::from_map(json!({"metric_for_best_model": "bleu"}).as_object().unwrap())
                .unwrap();
        let said = Rules::new(&config, &["eval_loss".into()]).unwrap_err().to_string();
        assert!(said.contains("eval_bleu") && said.contains("eval_loss"), "{said}");
    }

    /// The rates of torch 2.11's ReduceLROnPlateau over the same values.
    #[test]
    fn plateau_is_torchs() {
        let check = |kwargs: Value, values: &[f64], rates: &[f64]| {
            let rules = rules(json!({
                "lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": kwargs,
            }));
            let mut watch = Watch::default();
            for (step, (value, rate)) in values.iter().zip(rates).enumerate() {
                hear(&mut watch, &rules, step as u64, *value);
                assert!((watch.lr(1.0) - rate).abs() < 1e-12, "{kwargs} step {step}: {watch:?}");
            }
        };
        let falling = [5.0, 4.0, 4.0, 4.0, 3.9999, 3.0, 3.0, 3.0, 3.0, 3.0];
        let rates = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125];
        check(json!({"factor": 0.5, "patience": 1}), &falling, &rates);
        let cooled = [1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25];
        let flat = [2.0; 10];
        check(json!({"factor": 0.5, "patience": 1, "cooldown": 2}), &flat, &cooled);
        let floor = [1.0, 0.5, 0.3, 0.3];
        check(json!({"factor": 0.5, "patience": 0, "min_lr": 0.3}), &flat[..4], &floor);
        let absolute =
            json!({"factor": 0.5, "patience": 0, "threshold": 0.6, "threshold_mode": "abs"});
        check(absolute, &[3.0, 2.5, 2.3], &[1.0, 0.5, 0.5]);
        let rising = json!({"factor": 0.5, "patience": 0, "mode": "max"});
        check(rising, &[1.0, 2.0, 1.5], &[1.0, 1.0, 0.5]);
    }
}
