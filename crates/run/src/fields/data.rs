//! Rows: which rows of text, and how they become tokens.

macro_rules! data_rows {
    ($left:tt $finish:ident { $($members:tt)* } { $($others:tt)* }) => { rows! { $left $finish {
        $($members)*
        Data {
            done template: Option<String> = "null", Advanced,
                "Name of the chat format; left out, the chat template of the tokenizer, else plain text.";
            done dataset: Vec<String> = "", Basic,
                "Names from dataset_info.json to train on, separated by commas.";
            done eval_dataset: Vec<String> = "", Advanced,
                "Names from dataset_info.json to evaluate on, separated by commas.";
            done dataset_dir: String = "data", Advanced, "Folder with dataset_info.json."
                { kind: Kind::Path };
            done cutoff_len: usize = "2048", Basic,
                "Rows are cut to this many tokens; memory grows with it."
                { unit: "tokens", min: Some(1.0), max: Some(1_048_576.0) };
            done train_on_prompt: bool = "false", Advanced,
                "Learn the prompts too, not the answers alone.";
            done mask_history: bool = "false", Advanced,
                "Learn the last answer of a conversation only.";
            done streaming: bool = "false", Advanced,
                "Read rows while training instead of before it.";
            done buffer_size: usize = "16384", Advanced,
                "Rows that are shuffled together when streaming." { unit: "rows", min: Some(1.0) };
            done mix_strategy: MixStrategy = "concat", Advanced,
                "How several datasets become one: one after the other, or interleaved until the first (under), the last (over) or each once (once) is exhausted.";
            done interleave_probs: Vec<f64> = "", Advanced,
                "The share of each dataset when interleaving, separated by commas.";
            done overwrite_cache: bool = "false", Advanced,
                "Encode the rows again even where a cache of them exists.";
            done preprocessing_batch_size: usize = "1000", Advanced,
                "Rows that are packed together at a time."
                { unit: "rows", min: Some(1.0), max: Some(10_000_000.0) };
            done preprocessing_num_workers: Option<usize> = "null", Advanced,
                "Parts that the rows are encoded in; more than there are cores changes nothing but packing."
                { min: Some(1.0), max: Some(4096.0) };
            done max_samples: Option<usize> = "null", Advanced,
                "Take the first so many rows of each dataset." { unit: "rows", min: Some(1.0) };
            done ignore_pad_token_for_loss: bool = "true", Advanced,
                "Padding is not learnt.";
            done val_size: f64 = "0.0", Advanced,
                "Rows held out for evaluation: a fraction below 1, or a number of rows."
                { min: Some(0.0), max: Some(1e9) };
            done eval_on_each_dataset: bool = "false", Advanced,
                "Evaluate each dataset by itself, as `eval_NAME_loss`.";
            done packing: Option<bool> = "null", Advanced,
                "Put several short rows into one of full length; left out, on for pre-training only.";
            done neat_packing: bool = "false", Advanced,
                "Pack, and keep packed rows from seeing each other.";
            done tool_format: Option<String> = "null", Advanced,
                "How tool calls are written, where it is not as the template says.";
            done default_system: Option<String> = "null", Advanced,
                "System prompt for rows without one, where it is not the template's." { keep_empty: true };
            done enable_thinking: Option<bool> = "true", Advanced,
                "For reasoning templates: on, off, or null for neither.";
            done preserve_thinking: bool = "false", Advanced,
                "Keep the thoughts in earlier answers of a conversation.";
            done tokenized_path: Option<String> = "null", Advanced,
                "Folder to keep the encoded rows in, or to read them from." { kind: Kind::Path };
        }
    } {
        $($others)*
        Data {
            idle("models here read text only") {
                media_dir: Option<String> = "null" { kind: Kind::Path };
            }
            idle("evaluation computes the loss and searches no beams") {
                eval_num_beams: Option<i64> = "null";
            }
            idle("there is one machine") { data_shared_file_system: bool = "false"; }
        }
    } } };
}
