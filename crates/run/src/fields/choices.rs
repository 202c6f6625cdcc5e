//! Arguments with a fixed set of values.

use serde_json::Value;

use super::Kind;
use super::value::{Argument, scalar, short};

macro_rules! choices {
    ($($(#[doc = $doc:literal])* $name:ident { $first:ident = $first_text:literal $(| $first_other:literal)* $(, $case:ident = $text:literal $(| $other:literal)*)* $(,)? })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub enum $name {
            #[doc = concat!("`", $first_text, "`")]
            #[default]
            $first,
            $(#[doc = concat!("`", $text, "`")] $case,)*
        }

        impl $name {
            /// The value as it is written in a config.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { Self::$first => $first_text, $(Self::$case => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl Argument for $name {
            const KIND: Kind = Kind::Choice;
            const CHOICES: &'static [&'static str] = &[$first_text, $($text),*];

            fn read(value: &Value) -> Result<Self, String> {
                let text = scalar(value)?;
                match text.to_ascii_lowercase().as_str() {
                    $first_text $(| $first_other)* => Ok(Self::$first),
                    $($text $(| $other)* => Ok(Self::$case),)*
                    _ => Err(format!("`{}` is none of {}", short(&text), Self::CHOICES.join(", "))),
                }
            }

            fn emit(&self) -> Value {
                Value::from(self.name())
            }
        }
    )*};
}

choices! {
    /// What is learnt from: answers (sft) or running text (pt).
    Stage { Sft = "sft", Pt = "pt" }
    /// Which weights learn.
    FinetuningType { Lora = "lora", Full = "full", Freeze = "freeze" }
    /// How the learning rate goes from its peak to its end.
    SchedulerType {
        Linear = "linear",
        Cosine = "cosine",
        CosineWithRestarts = "cosine_with_restarts",
        Polynomial = "polynomial",
        Constant = "constant",
        ConstantWithWarmup = "constant_with_warmup",
        InverseSqrt = "inverse_sqrt",
        ReduceLrOnPlateau = "reduce_lr_on_plateau",
        CosineWithMinLr = "cosine_with_min_lr",
        CosineWarmupWithMinLr = "cosine_warmup_with_min_lr",
        WarmupStableDecay = "warmup_stable_decay",
    }
    /// When something is done again and again. YAML reads a bare `no` as false.
    IntervalStrategy { No = "no" | "false" | "none" | "off", Steps = "steps", Epoch = "epoch" }
    /// When a checkpoint is written.
    SaveStrategy { No = "no" | "false" | "none" | "off", Steps = "steps", Epoch = "epoch", Best = "best" }
    /// The optimiser, as transformers calls it. Fused and paged ones are the same here.
    Optim {
        AdamwTorch = "adamw_torch",
        AdamwTorchFused = "adamw_torch_fused",
        PagedAdamw32bit = "paged_adamw_32bit",
        Adamw8bit = "adamw_8bit",
        AdamwBnb8bit = "adamw_bnb_8bit",
        PagedAdamw8bit = "paged_adamw_8bit",
        Adafactor = "adafactor",
        Lion32bit = "lion_32bit",
        PagedLion32bit = "paged_lion_32bit",
        Lion8bit = "lion_8bit",
        PagedLion8bit = "paged_lion_8bit",
        Sgd = "sgd",
    }
    /// How several datasets become one.
    MixStrategy {
        Concat = "concat",
        InterleaveUnder = "interleave_under",
        InterleaveOver = "interleave_over",
        InterleaveOnce = "interleave_once",
    }
    /// How BAdam divides the weights into blocks.
    BadamMode { Layer = "layer", Ratio = "ratio" }
    /// Which block BAdam takes next.
    BadamSwitchMode { Ascending = "ascending", Descending = "descending", Random = "random", Fixed = "fixed" }
    /// Which entries of a weight BAdam's ratio mode updates.
    BadamMaskMode { Adjacent = "adjacent", Scatter = "scatter" }
    /// Which side of a gradient GaLore projects.
    GaloreProjType { Std = "std", ReverseStd = "reverse_std", Right = "right", Left = "left", Full = "full" }
    /// How the context is stretched beyond what the model was trained on.
    RopeScaling { Linear = "linear", Dynamic = "dynamic", Yarn = "yarn", Llama3 = "llama3" }
    /// Which tokens are counted for throughput.
    TokensSeen {
        No = "no" | "false" | "none" | "off",
        All = "all" | "true" | "yes" | "on",
        NonPadding = "non_padding",
    }
    /// How rows of new tokens begin.
    InitSpecialTokens { NoiseInit = "noise_init", DescInit = "desc_init", DescInitWNoise = "desc_init_w_noise" }
    /// In which order rows come.
    SamplingStrategy { Random = "random", Sequential = "sequential", GroupByLength = "group_by_length" }
}
