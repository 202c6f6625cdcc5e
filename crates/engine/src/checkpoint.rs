//! Checkpoints: what a resumed run needs to go on bit for bit.
//!
//! `checkpoint-N/` holds the model or adapter as Hugging Face and PEFT name them, the tokenizer,
//! `optimizer.safetensors` (what the optimiser remembers), `tallow_state.json` (counters), `trainer_state.json`, and
//! `manifest.json`, which `run::checkpoint` writes last. Only a folder whose manifest verifies is
//! resumed from.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use run::checkpoint::Staged;
use run::config::Config;
use run::dir::RunDir;
use run::manifest::{self, Facts};

use crate::error::{Error, Result};
use crate::finish;
use crate::model::save::write_safetensors;
use crate::model::store::ParamId;
use crate::model::weights::{Dtype, read_state};
use crate::observer::Observer;
use crate::optim::rule::Slots;
use crate::state::{self, State};
use crate::train::Run;

/// A complete checkpoint to go on from.
#[derive(Clone, Debug)]
pub struct Resume {
    /// Its folder.
    pub path: PathBuf,
    /// What wrote it.
    pub facts: Facts,
}

/// The file of what the optimiser remembers.
pub const OPTIMIZER: &str = "optimizer.safetensors";

/// The checkpoint to resume from: the one that is named, or the newest that is complete; `None`
/// starts at step 0.
///
/// # Errors
/// When the named one is not complete, or the folder holds something that is not ours.
pub fn choose(config: &Config, dir: &RunDir, io: &mut dyn Observer) -> Result<Option<Resume>> {
    if let Some(named) = named(config) {
        let path = PathBuf::from(named);
        let manifest = manifest::verify(&path)
            .map_err(|e| Error::input("resume_from_checkpoint", e.to_string()))?;
        return Ok(Some(Resume { path, facts: manifest.facts }));
    }
    let search = dir.newest_complete_checkpoint().map_err(|e| Error::io("read", dir.path(), e))?;
    for (checkpoint, fault) in &search.rejected {
        io.warn(format!("{}: {fault}; an older one is used", checkpoint.path.display()))?;
    }
    let Some((checkpoint, manifest)) = search.found else {
        return Ok(None);
    };
    io.say(format!("Resuming training from {}.", checkpoint.path.display()))?;
    io.say("Change `output_dir` or use `overwrite_output_dir` to avoid.".into())?;
    Ok(Some(Resume { path: checkpoint.path, facts: manifest.facts }))
}

/// Says so where this process computes in another order than the one that wrote the checkpoint.
///
/// # Errors
/// When it cannot be written down.
pub fn compare(run: &Run<'_>, resume: &Resume, io: &mut dyn Observer) -> Result<()> {
    let now = facts(run);
    if (now.threads, &now.cpu_features) == (resume.facts.threads, &resume.facts.cpu_features) {
        return Ok(());
    }
    io.warn(format!(
        "the checkpoint was written with {} threads ({}), this process has {} ({}): the run goes on, \
         but not bit for bit as without the interruption",
        resume.facts.threads,
        resume.facts.cpu_features.join(" "),
        now.threads,
        now.cpu_features.join(" ")
    ))
}

/// `resume_from_checkpoint` as a path; "true" and "false" are upstream's other spellings.
fn named(config: &Config) -> Option<&str> {
    let named = config.resume_from_checkpoint.as_deref()?;
    let word = named.to_ascii_lowercase();
    (!matches!(word.as_str(), "" | "true" | "false" | "none")).then_some(named)
}

/// Writes a checkpoint of the run as it stands; returns its folder's name.
///
/// # Errors
/// When it cannot be written: no `checkpoint-N` appears then.
pub fn save(run: &Run<'_>) -> Result<String> {
    let io = |e| Error::io("write", run.dir.checkpoint(run.state.step), e);
    let staged = Staged::begin(&run.dir, run.state.step).map_err(io)?;
    let at = staged.path();
    finish::write_model(run, at)?;
    if !run.config.save_only_model {
        write_slots(run, &at.join(OPTIMIZER))?;
        let state =
            serde_json::to_vec(&counted(run)).map_err(|e| Error::Internal(e.to_string()))?;
        write(&at.join(state::FILE), &state)?;
    }
    write(&at.join("trainer_state.json"), finish::trainer_state(run).as_bytes())?;
    let path = staged.publish(facts(run)).map_err(io)?;
    Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Removes the oldest checkpoints beyond `save_total_limit`, but never the newest or the best.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(run: &Run<'_>) -> Result<()> {
    let Some(keep) = run.config.save_total_limit.filter(|n| *n > 0) else {
        return Ok(());
    };
    let removed = run::checkpoint::prune(&run.dir, keep, run.state.watch.saved);
    removed.map(|_| ()).map_err(|e| Error::io("remove", run.dir.path(), e))
}

/// What the optimiser remembers, and counters, of a checkpoint; the weights were read when the model was made.
///
/// # Errors
/// When the checkpoint is of another model or method.
pub fn load(run: &mut Run<'_>, from: &Path) -> Result<()> {
    let path = from.join(state::FILE);
    let text = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::input(
            from.display().to_string(),
            "has no tallow_state.json: it was saved with save_only_model and cannot be resumed",
        ),
        _ => Error::io("read", &path, e),
    })?;
    let state: State = serde_json::from_slice(&text)
        .map_err(|e| Error::input(path.display().to_string(), e.to_string()))?;
    if let (Some(badam), Some(block)) = (&run.badam, state.block) {
        run.optimiser.grads = badam.activate(block, &mut run.prepared.decoder.params);
    }
    let file = from.join(OPTIMIZER);
    let mut tensors = read_state(&file)?;
    for id in run.prepared.decoder.params.trained() {
        let param = run.prepared.decoder.params.get(id);
        let mut slots = Vec::new();
        let layout = run.optimiser.rule.layout(param, run.optimiser.grads.entries(id));
        let all = layout.len();
        for spec in layout {
            let key = format!("{}.{}", spec.name, param.name);
            let Some(found) = tensors.swap_remove(&key) else { continue };
            if found.dims() != spec.shape || found.dtype() != spec.dtype {
                let why = format!("{key} is {:?}, not {:?}", found.dims(), spec.shape);
                return Err(Error::input(file.display().to_string(), why));
            }
            slots.push((spec.name, found));
        }
        match state.updates.get(&param.name) {
            Some(step) if slots.len() == all => {
                run.optimiser.slots.insert(id, Slots::loaded(*step, slots));
            }
            None if state.updates.is_empty() => {}
            _ => {
                let why = format!(
                    "has not all that this optimiser remembers of {}; was it saved by another \
                     method or optim?",
                    param.name
                );
                return Err(Error::input(file.display().to_string(), why));
            }
        }
    }
    run.state = state;
    Ok(())
}

/// The run's state with each parameter's count of updates.
fn counted(run: &Run<'_>) -> State {
    let name = |id| run.prepared.decoder.params.get(id).name.clone();
    let updates = run.optimiser.slots.iter().map(|(id, slots)| (name(*id), slots.step)).collect();
    State { updates, ..run.state.clone() }
}

fn write_slots<'a>(run: &'a Run<'_>, path: &Path) -> Result<()> {
    let params = &run.prepared.decoder.params;
    let named = |(id, slots): (&ParamId, &'a Slots)| {
        let name = params.get(*id).name.clone();
        slots.iter().map(move |(slot, tensor)| (format!("{slot}.{name}"), tensor))
    };
    let names: Vec<(String, &Tensor)> = run.optimiser.slots.iter().flat_map(named).collect();
    let tensors: Vec<_> = names.iter().map(|(name, t)| (name.as_str(), *t)).collect();
    write_safetensors(path, &tensors, Dtype::F32)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io("write", path, e))
}

fn facts(run: &Run<'_>) -> Facts {
    Facts {
        step: run.state.step,
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        threads: run.threads,
        cpu_features: crate::simd::cpu_features(),
    }
}
