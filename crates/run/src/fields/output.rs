//! Rows: files, checkpoints and logs; evaluation and generated text.

macro_rules! output_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Output {
            done output_dir: Option<String> = "null", Advanced,
                "Folder for the model, checkpoints and logs; the dashboard makes one where it is left out."
                { kind: Kind::Path };
            done overwrite_output_dir: bool = "false", Advanced,
                "Begin again in a folder that holds an earlier run, instead of resuming it.";
            done resume_from_checkpoint: Option<String> = "null", Advanced,
                "Checkpoint folder to go on from; left out or `true`, the newest complete one in output_dir."
                { kind: Kind::Path };
            done run_name: Option<String> = "null", Advanced, "A name for the list of runs.";
            done save_strategy: SaveStrategy = "steps", Advanced, "When a checkpoint is written; `best`, when an evaluation is the best so far.";
            done save_steps: f64 = "500", Advanced,
                "Steps between checkpoints; below 1, a share of all steps."
                { unit: "steps", min: Some(0.0), max: Some(1e12) };
            done save_total_limit: Option<usize> = "null", Advanced,
                "Keep only the newest so many checkpoints." { unit: "checkpoints", min: Some(1.0) };
            done save_only_model: bool = "false", Advanced,
                "Checkpoints without the optimiser's state: smaller, and a resume starts it afresh.";
            done logging_strategy: IntervalStrategy = "steps", Advanced, "When a line is logged.";
            done logging_steps: f64 = "500", Advanced,
                "Steps between log lines, and between points of the curve; below 1, a share of all steps."
                { unit: "steps", min: Some(0.0), max: Some(1e12) };
            done logging_first_step: bool = "false", Advanced, "Log the first step too.";
            done plot_loss: bool = "false", Advanced, "Save the loss curve as training_loss.png.";
            done include_num_input_tokens_seen: TokensSeen = "no", Advanced,
                "Count the tokens seen, which gives throughput; padding is never counted.";
            done include_effective_tokens_per_second: bool = "false", Advanced,
                "Report the tokens of the data per second at the end.";
        }
        Eval {
            done do_train: bool = "false", Advanced, "Train.";
            done do_eval: bool = "false", Advanced, "Evaluate when training is over.";
            done do_predict: bool = "false", Advanced,
                "Write the model's answers to the evaluation rows; with `do_train` off, nothing else.";
            done predict_with_generate: bool = "false", Advanced,
                "Must be on for `do_predict`; evaluations compute the loss in any case.";
            done do_sample: bool = "true", Advanced,
                "Draw the words of those answers at random; off, the most likely are taken."
                { needs: Some(("do_predict", "true")) };
            done temperature: f64 = "0.95", Advanced, "How far the draws stray from the likely."
                { min: Some(0.0), max: Some(100.0), needs: Some(("do_predict", "true")) };
            done top_p: f64 = "0.7", Advanced,
                "Draw from the likely words that together have this probability."
                { min: Some(0.0), max: Some(1.0), needs: Some(("do_predict", "true")) };
            done top_k: usize = "50", Advanced, "Draw from so many of the likely words; 0, from all."
                { needs: Some(("do_predict", "true")) };
            done repetition_penalty: f64 = "1.0", Advanced,
                "Above 1, words that are there already become less likely."
                { min: Some(0.01), max: Some(100.0), needs: Some(("do_predict", "true")) };
            done max_new_tokens: usize = "1024", Advanced, "Length of those answers; 0, as `max_length` says."
                { unit: "tokens", max: Some(1_048_576.0), needs: Some(("do_predict", "true")) };
            done max_length: usize = "1024", Advanced, "Length of prompt and answer together."
                { unit: "tokens", min: Some(1.0), max: Some(1_048_576.0), needs: Some(("do_predict", "true")) };
            done skip_special_tokens: bool = "true", Advanced,
                "Leave special tokens out of the answers' text." { needs: Some(("do_predict", "true")) };
            done eval_strategy: IntervalStrategy = "no", Advanced,
                "When the held-out rows are evaluated during training.";
            done eval_steps: Option<f64> = "null", Advanced,
                "Steps between evaluations; left out, as `logging_steps`; below 1, a share of all steps."
                { unit: "steps", min: Some(0.0), max: Some(1e12) };
            done eval_delay: f64 = "0", Advanced, "Steps or epochs before the first evaluation."
                { min: Some(0.0), max: Some(1e12) };
            done eval_on_start: bool = "false", Advanced, "Evaluate once before the first step.";
            done per_device_eval_batch_size: usize = "8", Advanced,
                "Rows that are evaluated at once." { unit: "rows", min: Some(1.0), max: Some(65_536.0) };
            done compute_accuracy: bool = "false", Advanced,
                "Report the share of tokens that are guessed right.";
            done load_best_model_at_end: bool = "false", Advanced,
                "Go back to the best checkpoint when training is over.";
            done metric_for_best_model: Option<String> = "null", Advanced,
                "The metric that tells which checkpoint is best; left out, the loss.";
            done greater_is_better: Option<bool> = "null", Advanced,
                "Whether more of that metric is better.";
            done early_stopping_steps: Option<usize> = "null", Advanced,
                "Stop after so many evaluations without progress." { min: Some(1.0) };
            done sample_prompt: Option<String> = "null", Advanced,
                "A prompt that the model answers before the first step and after the last; left out, none is asked.";
            done sample_max_new_tokens: usize = "64", Advanced, "Length of those answers."
                { unit: "tokens", min: Some(1.0), max: Some(4096.0) };
        }
    } {
        $($others)*
        Output {
            never("trackers are not supported; the dashboard keeps every curve (use none)") {
                report_to: Vec<String> = "none";
                use_swanlab: bool = "false";
            }
            idle("only a tracker reads it") {
                swanlab_project: Option<String> = "llamafactory";
                swanlab_workspace: Option<String> = "null";
                swanlab_run_name: Option<String> = "null";
                swanlab_mode: String = "cloud";
                swanlab_api_key: Option<String> = "null" { secret: true };
                swanlab_logdir: Option<String> = "null" { kind: Kind::Path };
                swanlab_lark_webhook_url: Option<String> = "null" { secret: true };
                swanlab_lark_secret: Option<String> = "null" { secret: true };
                project: String = "huggingface";
                trackio_space_id: Option<String> = "null";
                trackio_bucket_id: Option<String> = "null";
                trackio_static_space_id: Option<String> = "null";
                logging_dir: Option<String> = "null" { kind: Kind::Path };
            }
            never("a run uploads nothing") { push_to_hub: bool = "false"; }
            idle("only `push_to_hub` reads it") {
                hub_token: Option<String> = "null" { secret: true };
                hub_private_repo: Option<bool> = "null";
                hub_model_id: Option<String> = "null";
                hub_strategy: String = "every_save";
                hub_always_push: bool = "false";
                hub_revision: Option<String> = "null";
            }
            idle("weights are always saved as safetensors") { save_safetensors: bool = "true"; }
            idle("there is one machine") {
                log_on_each_node: bool = "true";
                save_on_each_node: bool = "false";
            }
            idle("a loss that is not finite stops the step and is never logged as a number") {
                logging_nan_inf_filter: bool = "true";
            }
            idle("the log tells each thing once; there is nothing to turn up or down") {
                log_level: String = "passive";
                log_level_replica: String = "warning";
                disable_tqdm: Option<bool> = "null";
            }
            never("use Stop and save, which writes a checkpoint") {
                enable_jit_checkpoint: bool = "false";
            }
            never("a resume always goes on at the next row") { ignore_data_skip: bool = "false"; }
            idle("a resume restores everything") {
                restore_callback_states_from_checkpoint: bool = "false";
            }
        }
        Eval {
            idle("evaluation here computes the loss, batch by batch") {
                prediction_loss_only: bool = "false";
                eval_do_concat_batches: bool = "true";
                eval_use_gather_object: bool = "false";
                eval_accumulation_steps: Option<i64> = "null";
                batch_eval_metrics: bool = "false";
                include_for_metrics: Vec<String> = "";
            }
            never("answers are drawn or the most likely; beams are not searched") { num_beams: i64 = "1"; }
            idle("only a search of beams reads it") { length_penalty: f64 = "1.0"; }
            idle("answers follow the arguments of generation above") {
                sortish_sampler: bool = "false";
                generation_max_length: Option<i64> = "null";
                generation_num_beams: Option<i64> = "null";
                generation_config: Option<String> = "null";
            }
        }
    } } };
}
