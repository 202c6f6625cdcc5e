//! Rows: which weights learn, and how.

macro_rules! method_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Method {
            done stage: Stage = "sft", Advanced,
                "What is learnt from: `sft` answers to prompts, `pt` running text.";
            done finetuning_type: FinetuningType = "lora", Basic,
                "`lora` trains a small adapter beside the frozen model; `freeze` some layers of it; `full` every weight.";
            done lora_rank: usize = "8", Advanced,
                "Width of the adapter: more can learn more and takes more memory."
                { min: Some(1.0), max: Some(65_536.0), needs: Some(("finetuning_type", "lora")) };
            done lora_alpha: Option<usize> = "null", Advanced,
                "Scale of the adapter; left out, twice the rank."
                { min: Some(1.0), max: Some(1e9), needs: Some(("finetuning_type", "lora")) };
            done lora_dropout: f64 = "0.0", Advanced,
                "Share of the adapter's inputs that are dropped at random in training."
                { min: Some(0.0), max: Some(0.999), needs: Some(("finetuning_type", "lora")) };
            done lora_target: Vec<String> = "all", Advanced,
                "Names of the linear layers that get an adapter, separated by commas; `all` is each but the head."
                { needs: Some(("finetuning_type", "lora")) };
            done additional_target: Vec<String> = "", Advanced,
                "Names of further modules to train whole and save beside the adapter."
                { needs: Some(("finetuning_type", "lora")) };
            done use_rslora: bool = "false", Advanced,
                "Scale by alpha over the square root of the rank (rank-stabilised LoRA)."
                { needs: Some(("finetuning_type", "lora")) };
            done use_dora: bool = "false", Advanced,
                "Learn the length of each weight row apart from its direction (DoRA)."
                { needs: Some(("finetuning_type", "lora")) };
            done pissa_init: bool = "false", Advanced,
                "Begin the adapter with the model's principal components (PiSSA)."
                { needs: Some(("finetuning_type", "lora")) };
            done pissa_iter: i64 = "16", Advanced,
                "Rounds of the fast decomposition for PiSSA; -1 decomposes exactly."
                { min: Some(-1.0), max: Some(10_000.0), needs: Some(("pissa_init", "true")) };
            done pissa_convert: bool = "false", Advanced,
                "Save a PiSSA adapter as a plain LoRA adapter of the unchanged model."
                { needs: Some(("pissa_init", "true")) };
            done loraplus_lr_ratio: Option<f64> = "null", Advanced,
                "How many times faster the B matrices learn (LoRA+)."
                { min: Some(0.0), max: Some(1e6), needs: Some(("finetuning_type", "lora")) };
            done loraplus_lr_embedding: f64 = "1e-06", Advanced,
                "Learning rate of LoRA embedding layers with LoRA+."
                { min: Some(0.0), max: Some(1e3), needs: Some(("finetuning_type", "lora")) };
            done create_new_adapter: bool = "false", Advanced,
                "Merge the given adapters into the model and train a new one."
                { needs: Some(("finetuning_type", "lora")) };
            done freeze_trainable_layers: i64 = "2", Advanced,
                "Train the last so many layers; negative, the first."
                { unit: "layers", min: Some(-10_000.0), max: Some(10_000.0), needs: Some(("finetuning_type", "freeze")) };
            done freeze_trainable_modules: Vec<String> = "all", Advanced,
                "Names of the modules to train in those layers, separated by commas."
                { needs: Some(("finetuning_type", "freeze")) };
            done freeze_extra_modules: Vec<String> = "", Advanced,
                "Names of modules outside the layers to train too."
                { needs: Some(("finetuning_type", "freeze")) };
            done use_badam: bool = "false", Advanced,
                "Train one block of weights at a time with AdamW: full tuning in little memory (BAdam).";
            done badam_mode: BadamMode = "layer", Advanced,
                "Blocks are layers, or a share of each weight's entries."
                { needs: Some(("use_badam", "true")) };
            done badam_start_block: Option<i64> = "null", Advanced, "Block to begin with."
                { min: Some(0.0), max: Some(100_000.0), needs: Some(("use_badam", "true")) };
            done badam_switch_mode: Option<BadamSwitchMode> = "ascending", Advanced,
                "In which order the blocks come." { needs: Some(("use_badam", "true")) };
            done badam_switch_interval: Option<i64> = "50", Advanced,
                "Steps before the next block in layer mode; -1 never changes it."
                { unit: "steps", min: Some(-1.0), max: Some(1e9), needs: Some(("use_badam", "true")) };
            done badam_update_ratio: f64 = "0.05", Advanced,
                "Share of the entries that ratio mode updates."
                { min: Some(0.0), max: Some(1.0), needs: Some(("use_badam", "true")) };
            done badam_mask_mode: BadamMaskMode = "adjacent", Advanced,
                "Whether ratio mode's entries lie side by side or scattered."
                { needs: Some(("use_badam", "true")) };
            done badam_verbose: i64 = "0", Advanced, "How much BAdam says in the log: 0, 1 or 2."
                { min: Some(0.0), max: Some(2.0), needs: Some(("use_badam", "true")) };
            done use_galore: bool = "false", Advanced,
                "Keep the optimiser's moments of a low-rank projection of each gradient (GaLore).";
            done galore_target: Vec<String> = "all", Advanced,
                "Names of the linear layers that GaLore projects." { needs: Some(("use_galore", "true")) };
            done galore_rank: usize = "16", Advanced, "Rank of GaLore's projection."
                { min: Some(1.0), max: Some(65_536.0), needs: Some(("use_galore", "true")) };
            done galore_update_interval: usize = "200", Advanced,
                "Steps between new projections."
                { unit: "steps", min: Some(1.0), needs: Some(("use_galore", "true")) };
            done galore_scale: f64 = "2.0", Advanced, "Scale of GaLore's updates."
                { min: Some(0.0), max: Some(1e6), needs: Some(("use_galore", "true")) };
            done galore_proj_type: GaloreProjType = "std", Advanced,
                "Which side of a gradient is projected." { needs: Some(("use_galore", "true")) };
            done use_dft_loss: bool = "false", Advanced,
                "Weigh each token's loss by its own probability (DFT).";
        }
    } {
        $($others)*
        Method {
            never("OFT is not supported; use lora") {
                oft_rank: i64 = "0";
                oft_block_size: i64 = "32";
                oft_target: String = "all";
                module_dropout: f64 = "0.0";
            }
            never("training on preferences (stages rm, ppo, dpo, kto) is not supported") {
                pref_beta: f64 = "0.1";
                pref_ftx: f64 = "0.0";
                pref_bco_weight: f64 = "0.0";
                pref_loss: String = "sigmoid";
                dpo_label_smoothing: f64 = "0.0";
                kto_chosen_weight: f64 = "1.0";
                kto_rejected_weight: f64 = "1.0";
                simpo_gamma: f64 = "0.5";
                ppo_buffer_size: i64 = "1";
                ppo_epochs: i64 = "4";
                ppo_score_norm: bool = "false";
                ppo_target: f64 = "6.0";
                ppo_whiten_rewards: bool = "false";
                ref_model: Option<String> = "null";
                ref_model_adapters: Option<String> = "null";
                ref_model_quantization_bit: Option<i64> = "null";
                reward_model: Option<String> = "null";
                reward_model_adapters: Option<String> = "null";
                reward_model_quantization_bit: Option<i64> = "null";
                reward_model_type: String = "lora";
                ld_alpha: Option<f64> = "null";
            }
            never("APOLLO is not supported") {
                use_apollo: bool = "false";
                apollo_target: String = "all";
                apollo_rank: i64 = "16";
                apollo_update_interval: i64 = "200";
                apollo_scale: f64 = "32.0";
                apollo_proj: String = "random";
                apollo_proj_type: String = "std";
                apollo_scale_type: String = "channel";
                apollo_layerwise: bool = "false";
                apollo_scale_front: bool = "false";
            }
            never("block expansion is not supported; use full or lora") {
                use_llama_pro: bool = "false";
            }
            never("this optimiser is not supported; use adamw_torch") {
                use_adam_mini: bool = "false";
                use_muon: bool = "false";
            }
            never("a layer is updated when all gradients are there; leave it false") {
                galore_layerwise: bool = "false";
            }
            never("Megatron is another program") { use_mca: bool = "false"; }
            never("training on several machines is not supported") {
                use_hyper_parallel: bool = "false";
                hyper_parallel_args: Option<String> = "null";
            }
            never("this loss is not supported") {
                use_asft_loss: bool = "false";
                asft_alpha: f64 = "0.1";
                use_eaft_loss: bool = "false";
                eaft_alpha: f64 = "1.0";
            }
            never("models here read text only: nothing would be left to train") {
                freeze_language_model: bool = "false";
            }
            idle("models here read text only") {
                freeze_vision_tower: bool = "true";
                freeze_multi_modal_projector: bool = "true";
            }
        }
    } } };
}
