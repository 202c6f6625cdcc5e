//! What a run leaves behind: the model or adapter, the tokenizer, metrics, state, model card.
//!
//! Names and formats are transformers', PEFT's and LLaMA-Factory's, so that the tools that read
//! theirs read ours.

use std::path::Path;

use run::event::{Body, Phase};
use serde_json::{Map, Value, json};

use crate::card;
use crate::error::{Error, Result};
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::save::SaveOptions;
use crate::model::store::Grads;
use crate::model::weights::Dtype;
use crate::model::{adapter_file, lora, save};
use crate::observer::Observer;
use crate::report::{evaluate_sets, rounded};
use crate::rows::Rows;
use crate::sample;
use crate::train::Run;
use crate::{predict, prepare};

/// Writes everything that belongs to a finished run.
///
/// # Errors
/// When something cannot be computed or written.
pub fn write(run: &mut Run<'_>, io: &mut dyn Observer) -> Result<()> {
    io.phase(Phase::Finalizing)?;
    let mut all = train_results(run, io.elapsed_s());
    let summary: Vec<(&str, f64)> =
        all.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_f64()?))).collect();
    let epoch = run.plan.epoch_after(run.state.step);
    io.event(Body::metric(run.state.step, run.plan.total_steps, epoch, &summary))?;
    let mut line = all.clone();
    line.insert("step".into(), json!(run.state.step));
    run.state.log_history.push(line);
    load_best(run, io)?;
    sample::tell(run, io)?;
    write_model(run, run.dir.path())?;
    if let (true, Some(initial), Some(lora)) =
        (run.config.pissa_convert, &run.prepared.pissa, &run.prepared.lora)
    {
        initial.convert(run.dir.path(), &run.prepared.decoder, lora, &base(run))?;
    }
    if run.config.include_effective_tokens_per_second {
        let tokens = match &run.prepared.train {
            Rows::Held(_) => run.prepared.train.lengths(0).iter().sum::<usize>() as f64 * epoch,
            Rows::Streamed(_) => run.state.total_tokens as f64,
        };
        let speed = tokens / io.elapsed_s().max(1e-9);
        all.insert("effective_tokens_per_sec".into(), json!(speed));
    }
    pretty(&run.dir.train_results(), &all, 4)?;
    replace(&run.dir.trainer_state(), trainer_state(run).as_bytes())?;
    measure(run, io, &mut all)?;
    replace(&run.dir.path().join("README.md"), card::write(run).as_bytes())
}

/// Evaluates and answers without training: `do_predict` where `do_train` is off.
///
/// # Errors
/// As [`write`].
pub fn measure_only(run: &Run<'_>, io: &mut dyn Observer) -> Result<()> {
    measure(run, io, &mut Map::new())
}

/// The evaluation and the answers of the end, and `all_results.json`.
fn measure(run: &Run<'_>, io: &mut dyn Observer, all: &mut Map<String, Value>) -> Result<()> {
    let epoch = run.plan.epoch_after(run.state.step);
    if run.config.evaluates() && !run.prepared.eval.is_empty() {
        let mut results = Map::new();
        results.insert("epoch".into(), json!(epoch));
        for found in evaluate_sets(run, io)? {
            results.extend(found.results());
            results.insert(format!("{}_token_loss", found.key), json!(found.found.token_loss));
        }
        pretty(&run.dir.eval_results(), &results, 4)?;
        all.extend(results);
        io.phase(Phase::Finalizing)?;
    }
    if run.config.do_predict {
        let results = predict::write(run, io)?;
        pretty(&run.dir.path().join("predict_results.json"), &results, 4)?;
        all.extend(results);
        io.phase(Phase::Finalizing)?;
    }
    pretty(&run.dir.all_results(), all, 4)
}

/// `load_best_model_at_end`: goes back to the best checkpoint, unless the last step is it.
fn load_best(run: &mut Run<'_>, io: &mut dyn Observer) -> Result<()> {
    let watch = &run.state.watch;
    let (true, Some(step), Some(best)) =
        (run.config.load_best_model_at_end, watch.saved, watch.best)
    else {
        return Ok(());
    };
    if step == run.state.step {
        return Ok(());
    }
    let path = run.dir.checkpoint(step);
    run::manifest::verify(&path)
        .map_err(|e| Error::input(path.display().to_string(), e.to_string()))?;
    io.say(format!("Loading best model from {} (score: {}).", path.display(), best.value))?;
    // What only training needs makes room.
    run.optimiser.slots.clear();
    run.optimiser.grads = Grads::default();
    prepare::reload(&mut run.prepared, run.config, &path, io)
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
    let watch = &run.state.watch;
    let map: Map<String, Value> = [
        ("best_global_step", json!(watch.best.map(|best| best.step))),
        ("best_metric", json!(watch.best.map(|best| best.value))),
        ("best_model_checkpoint", json!(watch.saved.map(|step| run.dir.checkpoint(step)))),
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
    put("train_runtime", json!(rounded(runtime, 4)));
    put("train_samples_per_second", json!(rounded(samples / seconds, 3)));
    put("train_steps_per_second", json!(rounded(run.state.step as f64 / seconds, 3)));
    map
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
