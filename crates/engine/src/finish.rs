//! What a run leaves behind: the model or adapter, the tokenizer, metrics, state, model card.
//!
//! Names and formats are transformers', PEFT's and LLaMA-Factory's, so that the tools that read
//! theirs read ours.

use std::path::Path;

use run::event::{Body, Phase};
use run::fields::{FinetuningType, IntervalStrategy};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::save::SaveOptions;
use crate::model::weights::Dtype;
use crate::model::{adapter_file, lora, save};
use crate::observer::Observer;
use crate::report::evaluate_sets;
use crate::sample;
use crate::train::Run;

/// Writes everything that belongs to a finished run.
///
/// # Errors
/// When something cannot be computed or written.
pub fn write(run: &mut Run<'_>, io: &mut dyn Observer) -> Result<()> {
    io.phase(Phase::Finalizing)?;
    sample::tell(run, io)?;
    write_model(run, run.dir.path())?;
    if let (true, Some(initial), Some(lora)) =
        (run.config.pissa_convert, &run.prepared.pissa, &run.prepared.lora)
    {
        initial.convert(run.dir.path(), &run.prepared.decoder, lora, &base(run))?;
    }
    let mut all = train_results(run, io.elapsed_s());
    let summary: Vec<(&str, f64)> =
        all.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_f64()?))).collect();
    let epoch = run.plan.epoch_after(run.state.step);
    io.event(Body::metric(run.state.step, run.plan.total_steps, epoch, &summary))?;
    let mut line = all.clone();
    line.insert("step".into(), json!(run.state.step));
    run.state.log_history.push(line);
    pretty(&run.dir.train_results(), &all, 4)?;
    if run.config.evaluates() && !run.prepared.eval.is_empty() {
        let mut results = Map::new();
        results.insert("epoch".into(), json!(epoch));
        for (key, found, runtime) in evaluate_sets(run, io)? {
            let seconds = runtime.max(1e-9);
            results.insert(format!("{key}_loss"), json!(found.eval_loss));
            results.insert(format!("{key}_token_loss"), json!(found.token_loss));
            results.insert(format!("{key}_runtime"), json!(runtime));
            let rate = found.rows as f64 / seconds;
            results.insert(format!("{key}_samples_per_second"), json!(rate));
        }
        pretty(&run.dir.eval_results(), &results, 4)?;
        all.extend(results);
        io.phase(Phase::Finalizing)?;
    }
    pretty(&run.dir.all_results(), &all, 4)?;
    replace(&run.dir.trainer_state(), trainer_state(run).as_bytes())?;
    replace(&run.dir.path().join("README.md"), card(run).as_bytes())
}

/// Writes what PiSSA took out of the weights, before anything moves: with it the adapter can be
/// read.
///
/// # Errors
/// When it cannot be written.
pub fn write_start(run: &Run<'_>) -> Result<()> {
    match (&run.prepared.pissa, &run.prepared.lora) {
        (Some(initial), Some(lora)) => initial.write(run.dir.path(), lora, &base(run)),
        _ => Ok(()),
    }
}

/// The model that an adapter belongs to: what the run was told, or the repository that a GGUF file says
/// it was made from, which PEFT can load where it cannot load the file.
fn base(run: &Run<'_>) -> String {
    let repo = match &run.prepared.location {
        ModelLocation::Gguf(file) => Gguf::open(file).ok().and_then(|gguf| gguf.source_repo()),
        ModelLocation::Folder(_) => None,
    };
    repo.unwrap_or_else(|| run.config.model_name_or_path.clone().unwrap_or_default())
}

/// Writes model or adapter, and tokenizer, into a folder.
///
/// # Errors
/// When something cannot be written.
pub fn write_model(run: &Run<'_>, dir: &Path) -> Result<()> {
    let prepared = &run.prepared;
    let stop_ids = match (&prepared.tokenizer, &prepared.template) {
        (Some(tokenizer), Some(template)) => tokenizer.stop_ids(&template.stop_words),
        _ => Vec::new(),
    };
    let params = &prepared.decoder.params;
    match &prepared.lora {
        None => {
            let tensors: Vec<_> = params.iter().map(|(_, p)| (p.name.as_str(), &p.value)).collect();
            let generation = match &prepared.location {
                ModelLocation::Folder(folder) => save::read_generation_config(folder)?,
                ModelLocation::Gguf(_) => None,
            };
            let options = SaveOptions {
                dtype: Dtype::F32,
                max_shard: save::MAX_SHARD,
                generation: generation.as_ref(),
                stop_ids: &stop_ids,
            };
            save::save_model(dir, &prepared.decoder.config, &tensors, &options)?;
        }
        Some(lora) => {
            let adapters = lora::adapters(&prepared.decoder, lora)?;
            let tensors: Vec<_> =
                adapters.iter().map(|(name, id)| (name.as_str(), params.value(*id))).collect();
            adapter_file::save_adapter(dir, lora, &base(run), &tensors, Dtype::F32)?;
        }
    }
    if let Some(tokenizer) = &prepared.tokenizer {
        tokenizer.save(dir)?;
    }
    Ok(())
}

/// trainer_state.json as transformers writes it: two spaces, sorted keys.
#[must_use]
pub fn trainer_state(run: &Run<'_>) -> String {
    let config = run.config;
    let total = run.plan.total_steps;
    let map: Map<String, Value> = [
        ("best_global_step", Value::Null),
        ("best_metric", Value::Null),
        ("best_model_checkpoint", Value::Null),
        ("epoch", json!(run.plan.epoch_after(run.state.step))),
        ("eval_steps", json!(config.eval_every(total).unwrap_or(500))),
        ("global_step", json!(run.state.step)),
        ("is_hyper_param_search", json!(false)),
        ("is_local_process_zero", json!(true)),
        ("is_world_process_zero", json!(true)),
        ("log_history", json!(run.state.log_history)),
        ("logging_steps", json!(config.log_every(total).unwrap_or(500))),
        ("max_steps", json!(total)),
        ("num_input_tokens_seen", json!(run.state.total_tokens)),
        ("num_train_epochs", json!(run.plan.epochs.ceil())),
        ("save_steps", json!(config.save_every(total).unwrap_or(500))),
        ("stateful_callbacks", json!({})),
        ("total_flos", json!(run.state.total_flos)),
        ("train_batch_size", json!(config.per_device_train_batch_size)),
        ("trial_name", Value::Null),
        ("trial_params", Value::Null),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v))
    .collect();
    indented(&map, 2)
}

fn train_results(run: &Run<'_>, runtime: f64) -> Map<String, Value> {
    let seconds = runtime.max(1e-9);
    let samples = run.prepared.train.len() as f64 * run.plan.epoch_after(run.state.step);
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    put("epoch", json!(run.plan.epoch_after(run.state.step)));
    put("num_input_tokens_seen", json!(run.state.total_tokens));
    put("total_flos", json!(run.state.total_flos));
    put("train_loss", json!(run.state.mean_loss()));
    put("train_runtime", json!(runtime));
    put("train_samples_per_second", json!(samples / seconds));
    put("train_steps_per_second", json!(run.state.step as f64 / seconds));
    map
}

/// The model card: what was trained on what, and how.
fn card(run: &Run<'_>) -> String {
    let config = run.config;
    let base = config.model_name_or_path.as_deref().unwrap_or("a model");
    let name = run.dir.path().file_name().unwrap_or_default().to_string_lossy();
    let (library, tag) = match config.finetuning_type {
        FinetuningType::Lora => ("peft", "lora"),
        FinetuningType::Full => ("transformers", "full"),
        FinetuningType::Freeze => ("transformers", "freeze"),
    };
    let eval = match config.eval_strategy {
        IntervalStrategy::No => String::new(),
        _ => format!("- eval_batch_size: {}\n", config.per_device_eval_batch_size),
    };
    format!(
        "---\nlibrary_name: {library}\nlicense: other\nbase_model: {base}\ntags:\n- tallow\n\
         - llama-factory\n- {tag}\n---\n\n# {name}\n\nThis model is a fine-tuned version of {base} on \
         the {} dataset.\n\n## Training hyperparameters\n\n- learning_rate: {}\n- train_batch_size: \
         {}\n{eval}- seed: {}\n- gradient_accumulation_steps: {}\n- optimizer: AdamW, betas ({}, {}), \
         epsilon {}\n- lr_scheduler_type: {}\n- num_epochs: {}\n- training_steps: {}\n\n\
         Trained with Tallow {}.\n",
        config.dataset.join(", "),
        config.learning_rate,
        config.per_device_train_batch_size,
        config.seed,
        config.gradient_accumulation_steps,
        config.adam_beta1,
        config.adam_beta2,
        config.adam_epsilon,
        config.lr_scheduler_type,
        run.plan.epochs,
        run.plan.total_steps,
        env!("CARGO_PKG_VERSION"),
    )
}

/// Writes JSON with sorted keys, replacing the file whole.
fn pretty(path: &Path, map: &Map<String, Value>, indent: usize) -> Result<()> {
    replace(path, indented(map, indent).as_bytes())
}

fn indented(map: &Map<String, Value>, indent: usize) -> String {
    let sorted: std::collections::BTreeMap<&String, &Value> = map.iter().collect();
    let spaces = " ".repeat(indent);
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // A map of plain JSON values always serialises.
    let _ = serde::Serialize::serialize(&sorted, &mut serializer);
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    run::atomic::write(path, bytes).map_err(|e| Error::io("write", path, e))
}
