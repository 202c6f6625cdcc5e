//! Checks between arguments, with upstream's texts.

use super::Config;
use super::error::{ConfigError, FieldError};
use crate::fields::{
    BadamMode, FinetuningType, IntervalStrategy, SamplingStrategy, SaveStrategy, SchedulerType,
    Stage,
};

/// Less than this is no validation split.
const NO_SPLIT: f64 = 1e-6;

/// What the arguments are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A training run.
    Train,
    /// The loss of a model on some rows.
    Eval,
    /// The encoded rows alone.
    Data,
}

impl Config {
    /// Checks the arguments of a training run against each other.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_for(Purpose::Train)
    }

    /// Checks the arguments against each other, as far as the purpose needs them.
    ///
    /// # Errors
    /// Everything that does not fit together.
    pub fn check_for(&self, purpose: Purpose) -> Result<(), ConfigError> {
        let mut rules = Rules::default();
        let r = &mut rules;
        r.refuse(
            self.model_name_or_path.as_deref().unwrap_or_default().is_empty(),
            "model_name_or_path",
            "Please provide `model_name_or_path`.",
        );
        self.check_data(r, purpose);
        if purpose != Purpose::Data {
            self.check_method(r);
        }
        if purpose == Purpose::Train {
            self.check_training(r);
        }
        if rules.errors.is_empty() { Ok(()) } else { Err(ConfigError::new(rules.errors)) }
    }

    fn check_data(&self, r: &mut Rules, purpose: Purpose) {
        let (dataset, eval) = (!self.dataset.is_empty(), !self.eval_dataset.is_empty());
        let split = self.val_size > NO_SPLIT;
        let trains = purpose == Purpose::Train && !self.only_predicts();
        let needed = dataset || (!trains && eval);
        r.refuse(!needed, "dataset", "Please specify dataset for training.");
        r.refuse(split && !dataset, "val_size", "Cannot specify `val_size` if `dataset` is None.");
        r.refuse(
            split && eval,
            "val_size",
            "Cannot specify `val_size` if `eval_dataset` is not None.",
        );
        r.refuse(
            self.val_size >= 1.0 && (self.val_size == 1.0 || self.val_size.fract() != 0.0),
            "val_size",
            "`val_size` is a fraction below 1 or a whole number of rows above 1.",
        );
        let sft_only = self.stage != Stage::Sft;
        r.refuse(
            sft_only && (self.train_on_prompt || self.mask_history),
            "train_on_prompt",
            "`train_on_prompt` or `mask_history` cannot be set as True except SFT.",
        );
        r.refuse(
            sft_only && self.neat_packing,
            "neat_packing",
            "`neat_packing` cannot be set as True except SFT.",
        );
        r.refuse(
            self.mask_history && self.train_on_prompt,
            "mask_history",
            "`mask_history` is incompatible with `train_on_prompt`.",
        );
        self.check_mixing(r);
    }

    fn check_mixing(&self, r: &mut Rules) {
        let interleaves = self.mix_strategy.name().starts_with("interleave");
        let probs = self.interleave_probs.len();
        r.refuse(
            probs > 0 && !interleaves,
            "interleave_probs",
            "`interleave_probs` is only valid for interleaved mixing.",
        );
        let unequal = |names: &[String]| probs > 0 && !names.is_empty() && names.len() != probs;
        r.refuse(
            interleaves && unequal(&self.dataset),
            "interleave_probs",
            "The length of dataset and interleave probs should be identical.",
        );
        r.refuse(
            interleaves && unequal(&self.eval_dataset),
            "interleave_probs",
            "The length of eval dataset and interleave probs should be identical.",
        );
        r.refuse(
            self.streaming && self.val_size > NO_SPLIT && self.val_size < 1.0,
            "val_size",
            "Streaming mode should have an integer val size.",
        );
        r.refuse(
            self.streaming && self.max_samples.is_some(),
            "max_samples",
            "`max_samples` is incompatible with `streaming`.",
        );
        r.refuse(
            self.streaming && self.sampling() == SamplingStrategy::GroupByLength,
            "group_by_length",
            "`group_by_length` must see all rows, and `streaming` shows one after the other.",
        );
        r.refuse(
            self.streaming && self.max_steps <= 0,
            "max_steps",
            "Please specify `max_steps` in streaming mode.",
        );
    }

    fn check_method(&self, r: &mut Rules) {
        let lora = self.finetuning_type == FinetuningType::Lora;
        r.refuse(
            !lora && !self.adapter_name_or_path.is_empty(),
            "adapter_name_or_path",
            "Adapter is only valid for the LoRA method.",
        );
        for (field, set) in [
            ("loraplus_lr_ratio", self.loraplus_lr_ratio.is_some()),
            ("use_rslora", self.use_rslora),
            ("use_dora", self.use_dora),
            ("pissa_init", self.pissa_init),
        ] {
            let message = format!("`{field}` is only valid for LoRA training.");
            r.refuse(!lora && set, field, &message);
        }
        r.refuse(
            lora && (self.use_galore || self.use_badam),
            if self.use_badam { "use_badam" } else { "use_galore" },
            "Cannot use LoRA with GaLore, APOLLO or BAdam together.",
        );
        r.refuse(
            self.use_galore && self.use_badam,
            "use_badam",
            "Cannot use GaLore, APOLLO or BAdam together.",
        );
        self.check_badam(r);
        let galore_optim = ["adamw_torch", "adamw_torch_fused", "adafactor"];
        let named = self.optim.name();
        r.refuse(
            self.use_galore
                && !galore_optim.contains(&named)
                && !named.ends_with("adamw_8bit")
                && named != "adamw_bnb_8bit",
            "optim",
            &format!("Unknown optim: {named}. GaLore knows adamw_torch, adamw_8bit and adafactor."),
        );
        r.refuse(
            self.use_dft_loss && self.label_smoothing_factor > 0.0,
            "use_dft_loss",
            "`use_dft_loss` and `label_smoothing_factor` are two losses; choose one.",
        );
        let adapter = !self.adapter_name_or_path.is_empty();
        r.refuse(
            self.pissa_init && adapter && !self.create_new_adapter,
            "pissa_init",
            "`pissa_init` makes a new adapter: set `create_new_adapter`, or leave one of them out.",
        );
        r.refuse(
            self.pissa_convert && !self.pissa_init && !adapter,
            "pissa_convert",
            "`pissa_convert` converts an adapter that began with `pissa_init`.",
        );
        self.check_quantization(r, lora);
    }

    fn check_badam(&self, r: &mut Rules) {
        r.refuse(
            self.use_badam && self.badam_switch_interval == Some(0),
            "badam_switch_interval",
            "`badam_switch_interval` is a number of steps, or -1 to stay at one block.",
        );
        let ratio = self.use_badam && self.badam_mode == BadamMode::Ratio;
        r.refuse(
            ratio && self.badam_update_ratio <= 0.0,
            "badam_update_ratio",
            "`badam_update_ratio` must be above 0: it is the share of entries that are trained.",
        );
    }

    fn check_quantization(&self, r: &mut Rules, lora: bool) {
        let field = "quantization_bit";
        let quantized = self.quantization_bit.is_some();
        let method = self.quantization_method.as_str();
        r.refuse(
            quantized && method != "bnb",
            "quantization_method",
            &format!(
                "`{method}` is not supported: only bitsandbytes' formats (`bnb`) and those of GGUF \
                 files are computed with here"
            ),
        );
        r.refuse(
            self.quantization_bit.is_some_and(|bits| bits != 4 && bits != 8),
            field,
            "Bitsandbytes only accepts 4-bit or 8-bit quantization.",
        );
        r.refuse(
            !matches!(self.quantization_type.as_str(), "nf4" | "fp4"),
            "quantization_type",
            "`quantization_type` is `nf4` or `fp4`.",
        );
        r.refuse(
            quantized && self.train_from_scratch,
            field,
            "A model that is trained from scratch has no weights to quantise.",
        );
        r.refuse(
            quantized && !lora,
            field,
            "Quantization is only compatible with the LoRA or OFT method.",
        );
        r.refuse(
            quantized && self.pissa_init,
            field,
            "Please use scripts/pissa_init.py to initialize PiSSA for a quantized model.",
        );
        r.refuse(
            quantized && self.resize_vocab,
            field,
            "Cannot resize embedding layers of a quantized model.",
        );
        r.refuse(
            quantized && self.create_new_adapter,
            field,
            "Cannot create new adapter upon a quantized model.",
        );
        r.refuse(
            quantized && self.adapter_name_or_path.len() > 1,
            field,
            "Quantized model only accepts a single adapter. Merge them first.",
        );
    }

    fn check_training(&self, r: &mut Rules) {
        let held_out = !self.eval_dataset.is_empty() || self.val_size > NO_SPLIT;
        r.refuse(
            self.evaluates() && !held_out,
            "val_size",
            "Please make sure eval_dataset be provided or val_size >1e-6",
        );
        r.refuse(
            self.fp16 && (self.bf16 || self.pure_bf16),
            "fp16",
            "At most one of fp16 and bf16 can be True, but not both",
        );
        r.refuse(
            self.max_steps < 1 && self.num_train_epochs == 0.0,
            "num_train_epochs",
            "`num_train_epochs` of 0 needs `max_steps`.",
        );
        for (field, steps) in [
            ("logging_steps", Some(self.logging_steps)),
            ("save_steps", Some(self.save_steps)),
            ("eval_steps", self.eval_steps),
        ] {
            let message = format!("--{field} must be an integer if bigger than 1");
            r.refuse(
                steps.is_some_and(|steps| steps > 1.0 && steps.fract() != 0.0),
                field,
                &message,
            );
        }
        let by_steps = self.logging_strategy == IntervalStrategy::Steps;
        r.refuse(
            by_steps && self.logging_steps == 0.0,
            "logging_steps",
            "logging strategy steps requires non-zero --logging_steps",
        );
        self.check_schedule(r);
        self.check_best(r);
        self.check_predict(r);
    }

    /// Answers to the evaluation rows.
    fn check_predict(&self, r: &mut Rules) {
        let field = "predict_with_generate";
        r.refuse(
            self.predict_with_generate && self.stage != Stage::Sft,
            field,
            "`predict_with_generate` cannot be set as True except SFT.",
        );
        r.refuse(
            self.do_predict && !self.predict_with_generate,
            field,
            "Please enable `predict_with_generate` to save model predictions.",
        );
        r.refuse(
            self.predict_with_generate && self.compute_accuracy,
            field,
            "Cannot use `predict_with_generate` and `compute_accuracy` together.",
        );
        r.refuse(
            self.do_predict && self.train_on_prompt,
            "do_predict",
            "`do_predict` takes off what is labelled, which `train_on_prompt` says is all.",
        );
        r.refuse(
            self.do_predict && self.eval_dataset.is_empty() && self.val_size <= NO_SPLIT,
            "val_size",
            "Please make sure eval_dataset be provided or val_size >1e-6",
        );
    }

    /// What depends on evaluations.
    fn check_best(&self, r: &mut Rules) {
        let never = self.eval_strategy == IntervalStrategy::No;
        r.refuse(
            never && self.lr_scheduler_type == SchedulerType::ReduceLrOnPlateau,
            "eval_strategy",
            "lr_scheduler_type reduce_lr_on_plateau requires an eval strategy",
        );
        r.refuse(
            never && self.early_stopping_steps.is_some(),
            "eval_strategy",
            "EarlyStoppingCallback requires IntervalStrategy of steps or epoch",
        );
        r.refuse(
            never && self.save_strategy == SaveStrategy::Best,
            "eval_strategy",
            "save_strategy best requires an eval strategy",
        );
        if !self.load_best_model_at_end || self.save_strategy == SaveStrategy::Best {
            return;
        }
        let (eval, save) = (self.eval_strategy.name(), self.save_strategy.name());
        r.refuse(
            eval != save,
            "load_best_model_at_end",
            &format!(
                "--load_best_model_at_end requires the save and eval strategy to match, except when \
                 --save_strategy=\"best\", but found\n- Evaluation strategy: {eval}\n- Save strategy: \
                 {save}"
            ),
        );
        let save = self.save_steps;
        let every = self.eval_steps.filter(|every| *every > 0.0).unwrap_or(self.logging_steps);
        if self.eval_strategy != IntervalStrategy::Steps || every <= 0.0 || save <= 0.0 {
            return;
        }
        let mixed = (save < 1.0) != (every < 1.0);
        r.refuse(
            mixed,
            "save_steps",
            &format!(
                "--load_best_model_at_end requires the saving steps to be a multiple of the \
                 evaluation steps, which cannot get guaranteed when mixing ratio and absolute steps \
                 for save_steps {save} and eval_steps {every}."
            ),
        );
        let ratio = save / every;
        r.refuse(
            !mixed && (ratio - ratio.round()).abs() > 1e-6,
            "save_steps",
            &format!(
                "--load_best_model_at_end requires the saving steps to be a round multiple of the \
                 evaluation steps, but found {save}, which is not a round multiple of {every}."
            ),
        );
    }

    fn check_schedule(&self, r: &mut Rules) {
        let field = "lr_scheduler_kwargs";
        let given = |name: &str| {
            self.lr_scheduler_kwargs.as_ref().is_some_and(|kwargs| kwargs.get(name).is_some())
        };
        let needs_min = matches!(
            self.lr_scheduler_type,
            SchedulerType::CosineWithMinLr | SchedulerType::CosineWarmupWithMinLr
        );
        r.refuse(
            needs_min && !given("min_lr") && !given("min_lr_rate"),
            field,
            "One of min_lr or min_lr_rate should be set through the `lr_scheduler_kwargs`",
        );
        r.refuse(
            needs_min && given("min_lr") && given("min_lr_rate"),
            field,
            "Only one of min_lr or min_lr_rate should be set",
        );
        let mut kwargs = self.lr_scheduler_kwargs.iter().flatten();
        let wrong =
            kwargs.find(|(_, value)| !value.is_number() && !value.is_string() && !value.is_null());
        if let Some((name, value)) = wrong {
            r.refuse(true, field, &format!("{name} is {value}, which is not a number"));
        }
    }
}

#[derive(Default)]
struct Rules {
    errors: Vec<FieldError>,
}

impl Rules {
    fn refuse(&mut self, broken: bool, field: &str, message: &str) {
        if broken {
            self.errors.push(FieldError { field: field.to_owned(), message: message.to_owned() });
        }
    }
}
