//! Rows: batches, the optimiser, how long, and how the learning rate goes.

macro_rules! training_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Optim {
            done per_device_train_batch_size: usize = "8", Basic,
                "Rows that are computed at once; more is faster and takes more memory."
                { unit: "rows", min: Some(1.0), max: Some(65_536.0) };
            done gradient_accumulation_steps: usize = "1", Advanced,
                "Batches that are summed before one optimiser step."
                { unit: "batches", min: Some(1.0), max: Some(1e6) };
            done learning_rate: f64 = "5e-05", Basic,
                "Size of the steps at the peak; about 1e-4 for lora and 1e-5 for full."
                { min: Some(0.0), max: Some(1e3) };
            done optim: Optim = "adamw_torch_fused", Advanced,
                "The optimiser: AdamW, with 8 bits a quarter of its memory, Adafactor less still, Lion, or plain descent.";
            done weight_decay: f64 = "0.0", Advanced,
                "How much each step shrinks the weights (norms and biases excepted)."
                { min: Some(0.0), max: Some(1e3) };
            done adam_beta1: f64 = "0.9", Advanced, "How long AdamW remembers the gradient."
                { min: Some(0.0), max: Some(0.999_999_999) };
            done adam_beta2: f64 = "0.999", Advanced, "How long AdamW remembers the squared gradient."
                { min: Some(0.0), max: Some(0.999_999_999) };
            done adam_epsilon: f64 = "1e-08", Advanced, "Keeps AdamW from dividing by zero."
                { min: Some(0.0), max: Some(1.0) };
            done max_grad_norm: f64 = "1.0", Advanced,
                "Longer gradients are cut to this length; 0 cuts none." { min: Some(0.0), max: Some(1e9) };
            done label_smoothing_factor: f64 = "0.0", Advanced,
                "Share of the target that is spread over all tokens." { min: Some(0.0), max: Some(0.999) };
            done neftune_noise_alpha: Option<f64> = "null", Advanced,
                "Strength of the noise added to embeddings in training (NEFTune)."
                { min: Some(0.0), max: Some(1e6) };
            done dataloader_drop_last: bool = "false", Advanced,
                "Leave out the last batch of an epoch when it is not full.";
            done disable_shuffling: bool = "false", Advanced, "Take the rows in file order.";
            done group_by_length: bool = "false", Advanced,
                "Put rows of similar length into one batch.";
            done train_sampling_strategy: SamplingStrategy = "random", Advanced,
                "In which order rows come.";
            done auto_find_batch_size: bool = "false", Advanced,
                "Halve what is computed at once and double the accumulation until it fits into memory.";
        }
        Schedule {
            done num_train_epochs: f64 = "3.0", Basic, "Passes over the data."
                { unit: "epochs", min: Some(0.0), max: Some(1e6) };
            done max_steps: i64 = "-1", Advanced,
                "Optimiser steps, whatever the epochs say; -1 leaves it to the epochs."
                { unit: "steps", min: Some(-1.0), max: Some(1e12) };
            done lr_scheduler_type: SchedulerType = "linear", Advanced,
                "How the learning rate goes from its peak to the end.";
            done lr_scheduler_kwargs: Option<Map<String, Value>> = "null", Advanced,
                "Further values of the schedule, such as {\"min_lr\": 1e-6}.";
            done warmup_ratio: Option<f64> = "null", Advanced,
                "Share of the steps in which the learning rate rises from 0."
                { min: Some(0.0), max: Some(1.0) };
            done warmup_steps: f64 = "0", Advanced,
                "Steps in which the learning rate rises from 0; below 1, a share of all."
                { unit: "steps", min: Some(0.0), max: Some(1e12) };
        }
    } {
        $($others)*
        Optim {
            never("the optimisers take no further arguments here") { optim_args: Option<String> = "null"; }
            never("give `galore_target` instead") { optim_target_modules: Vec<String> = ""; }
            idle("there is one device") { average_tokens_across_devices: bool = "true"; }
            idle("rows are encoded once and stay in memory; there are no loader processes") {
                dataloader_num_workers: i64 = "0";
                dataloader_pin_memory: bool = "true";
                dataloader_persistent_workers: bool = "false";
                dataloader_prefetch_factor: Option<i64> = "null";
            }
            idle("rows hold only what the model reads") {
                remove_unused_columns: bool = "true";
                label_names: Vec<String> = "";
                length_column_name: String = "length";
            }
        }
    } } };
}
