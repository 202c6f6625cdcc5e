//! What follows from several arguments, said once for all who need it.

use super::Config;
use crate::fields::{
    FinetuningType, IntervalStrategy, SamplingStrategy, SaveStrategy, SchedulerType, Stage,
};

/// A floating-point format of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    Fp16,
}

impl Half {
    /// The argument's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
        }
    }
}

impl Config {
    /// Whether rows are packed: as asked, or by default for pre-training; neat packing packs too.
    #[must_use]
    pub fn packs(&self) -> bool {
        self.neat_packing || self.packing.unwrap_or(self.stage == Stage::Pt)
    }

    /// The scale of LoRA before it is divided: as asked, or twice the rank.
    #[must_use]
    pub fn alpha(&self) -> usize {
        self.lora_alpha.unwrap_or(2 * self.lora_rank)
    }

    /// The 16-bit format that is asked for.
    #[must_use]
    pub const fn half(&self) -> Option<Half> {
        match (self.bf16 || self.pure_bf16, self.fp16) {
            (true, _) => Some(Half::Bf16),
            (false, true) => Some(Half::Fp16),
            (false, false) => None,
        }
    }

    /// What the base of an adapter is held in where it is held in 16 bits. Not where it is quantised,
    /// nor where something is folded into it: adapters that are merged, PiSSA's share, new tokens.
    #[must_use]
    pub fn frozen_half(&self) -> Option<Half> {
        let merged = self.adapter_name_or_path.len() > usize::from(!self.create_new_adapter);
        let frozen = self.finetuning_type == FinetuningType::Lora
            && self.quantization_bit.is_none()
            && !(merged || self.pissa_init || self.resize_vocab || self.train_from_scratch);
        if frozen { self.half() } else { None }
    }

    /// The seed of the order of rows.
    #[must_use]
    pub fn order_seed(&self) -> u64 {
        self.data_seed.unwrap_or(self.seed)
    }

    /// Steps in which the learning rate rises, of `total_steps`.
    #[must_use]
    pub fn warmup(&self, total_steps: u64) -> u64 {
        if self.warmup_steps >= 1.0 {
            return self.warmup_steps as u64;
        }
        let share =
            if self.warmup_steps > 0.0 { Some(self.warmup_steps) } else { self.warmup_ratio };
        (share.unwrap_or(0.0) * total_steps as f64).ceil() as u64
    }

    /// Steps between log lines, of `total_steps`; `None` logs no steps.
    #[must_use]
    pub fn log_every(&self, total_steps: u64) -> Option<u64> {
        interval(self.logging_strategy == IntervalStrategy::Steps, self.logging_steps, total_steps)
    }

    /// Steps between checkpoints, of `total_steps`; `None` where steps do not decide.
    #[must_use]
    pub fn save_every(&self, total_steps: u64) -> Option<u64> {
        interval(self.save_strategy == SaveStrategy::Steps, self.save_steps, total_steps)
    }

    /// Steps between evaluations, of `total_steps`; `None` where steps do not decide.
    #[must_use]
    pub fn eval_every(&self, total_steps: u64) -> Option<u64> {
        let every = self.eval_steps.filter(|every| *every > 0.0).unwrap_or(self.logging_steps);
        interval(self.eval_strategy == IntervalStrategy::Steps, every, total_steps)
    }

    /// Whether the run answers the evaluation rows and trains nothing.
    #[must_use]
    pub const fn only_predicts(&self) -> bool {
        self.do_predict && !self.do_train
    }

    /// In which order rows come.
    #[must_use]
    pub const fn sampling(&self) -> SamplingStrategy {
        if self.disable_shuffling {
            return SamplingStrategy::Sequential;
        }
        if self.group_by_length {
            return SamplingStrategy::GroupByLength;
        }
        self.train_sampling_strategy
    }

    /// The evaluation metric that decides what is best, without `eval_`: as asked, or the loss where
    /// something depends on it.
    #[must_use]
    pub fn decisive_metric(&self) -> Option<&str> {
        if let Some(named) = self.metric_for_best_model.as_deref().filter(|name| !name.is_empty()) {
            return Some(named.strip_prefix("eval_").unwrap_or(named));
        }
        let needed = self.load_best_model_at_end
            || self.save_strategy == SaveStrategy::Best
            || self.early_stopping_steps.is_some()
            || self.lr_scheduler_type == SchedulerType::ReduceLrOnPlateau;
        needed.then_some("loss")
    }

    /// Whether more of that metric is better: as asked, or unless it is a loss.
    #[must_use]
    pub fn greater_is_better(&self) -> bool {
        let loss = self.decisive_metric().is_none_or(|name| name.ends_with("loss"));
        self.greater_is_better.unwrap_or(!loss)
    }

    /// Whether anything is to be evaluated, during training or after it.
    #[must_use]
    pub fn evaluates(&self) -> bool {
        self.do_eval || self.eval_strategy != IntervalStrategy::No
    }
}

/// A number of steps, or below 1 a share of all, rounded up.
fn interval(by_steps: bool, every: f64, total_steps: u64) -> Option<u64> {
    if !by_steps || every <= 0.0 {
        return None;
    }
    let every = if every < 1.0 { (every * total_steps as f64).ceil() } else { every };
    Some((every as u64).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_numbers_of_steps() {
        for (every, total, expected) in [
            (500.0, 171, Some(500)),
            (0.1, 171, Some(18)),
            (1.0, 171, Some(1)),
            (0.0, 171, None),
            (0.5, 0, Some(1)),
        ] {
            assert_eq!(interval(true, every, total), expected, "{every} of {total}");
            assert_eq!(interval(false, every, total), None);
        }
    }

    #[test]
    fn warm_up_by_steps_goes_before_the_ratio() {
        for (steps, ratio, expected) in
            [(0.0, None, 0), (0.0, Some(0.1), 18), (7.0, Some(0.1), 7), (0.5, Some(0.1), 86)]
        {
            let config = Config { warmup_steps: steps, warmup_ratio: ratio, ..Config::default() };
            assert_eq!(config.warmup(171), expected);
        }
    }

    #[test]
    fn what_is_left_out_follows_from_the_rest() {
        let config = Config::default();
        assert_eq!((config.alpha(), config.packs(), config.order_seed()), (16, false, 42));
        let config = Config { stage: Stage::Pt, data_seed: Some(7), ..config };
        assert_eq!((config.packs(), config.order_seed()), (true, 7));
        let config = Config { packing: Some(false), ..config };
        assert!(!config.packs());
        assert!(Config { neat_packing: true, ..config }.packs());
    }
}
