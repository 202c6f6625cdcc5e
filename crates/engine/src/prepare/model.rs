//! The model of a run: its weights, the adapters on it, and which parameters are trained.

use std::path::{Path, PathBuf};

use candle_core::Device;
use run::config::Config;
use run::fields::FinetuningType;

use crate::error::{Error, Result};
use crate::model::adapter_file::read_adapter;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::freeze::Freeze;
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::lora::{self, LoraConfig, Targets};
use crate::model::quantise::{Plan, Target};
use crate::model::weights::{Dtype, Weights, read_folder, read_folder_quantised};
use crate::observer::Observer;

/// Reads the model, puts adapters on it and marks what is trained. With a checkpoint to resume
/// from, the trained weights are read from it.
pub(super) fn load(
    config: &Config,
    location: &ModelLocation,
    model_config: ModelConfig,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<(Decoder, Option<LoraConfig>)> {
    let mut decoder = match plan(config, &model_config, resume)? {
        Some(plan) => quantised(location, model_config, &plan, io)?,
        None => plain(config, location, model_config, resume, io)?,
    };
    decoder.neftune = config.neftune_noise_alpha.filter(|alpha| *alpha > 0.0);
    let lora = match config.finetuning_type {
        FinetuningType::Full => {
            decoder.params.set_trainable(|_| true);
            io.say("Fine-tuning method: Full".into())?;
            None
        }
        FinetuningType::Freeze => {
            freeze(config, &mut decoder, io)?;
            None
        }
        FinetuningType::Lora => {
            let lora = adapters(config, &mut decoder, resume, io)?;
            lora::set_trained(&mut decoder, &lora)?;
            if let Some(ratio) = config.loraplus_lr_ratio {
                io.say(format!("Using LoRA+ optimizer with loraplus lr ratio {ratio:.2}."))?;
            }
            Some(lora)
        }
    };
    Ok((decoder, lora))
}

/// A base in full precision.
fn plain(
    config: &Config,
    location: &ModelLocation,
    model_config: ModelConfig,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<Decoder> {
    let whole_model = config.finetuning_type != FinetuningType::Lora;
    let weights = match resume.filter(|_| whole_model) {
        Some(checkpoint) => read_folder(checkpoint, &model_config, Dtype::F32)?.weights,
        None if config.train_from_scratch => Weights::default(),
        None => read(location, &model_config, io)?,
    };
    match weights.is_empty() {
        true => Decoder::from_scratch(model_config, config.seed, &Device::Cpu),
        false => Decoder::new(model_config, weights, &Device::Cpu),
    }
}

/// What is quantised of the base: not the modules that are trained whole, which the arguments name,
/// or the adapter that is gone on with.
fn plan(
    config: &Config,
    model_config: &ModelConfig,
    resume: Option<&Path>,
) -> Result<Option<Plan>> {
    let Some(target) = Target::of(config)? else {
        return Ok(None);
    };
    let given = adapter_paths(config);
    let mut whole = config.additional_target.clone();
    for path in given.iter().map(PathBuf::as_path).chain(resume) {
        whole.extend(read_adapter(path, model_config)?.lora.whole);
    }
    Plan::new(target, model_config, &whole).map(Some)
}

/// A base that stays quantised.
fn quantised(
    location: &ModelLocation,
    model_config: ModelConfig,
    plan: &Plan,
    io: &mut dyn Observer,
) -> Result<Decoder> {
    let loaded = match location {
        ModelLocation::Folder(dir) => read_folder_quantised(dir, &model_config, plan)?,
        ModelLocation::Gguf(file) => Gguf::open(file)?.read_quantised(&model_config, plan)?,
    };
    for line in loaded.summary() {
        io.say(line)?;
    }
    Decoder::with_packed(model_config, loaded.weights, loaded.packed, &Device::Cpu)
}

fn read(
    location: &ModelLocation,
    model_config: &ModelConfig,
    io: &mut dyn Observer,
) -> Result<Weights> {
    let dir = match location {
        ModelLocation::Folder(dir) => dir,
        ModelLocation::Gguf(file) => {
            return Ok(Gguf::open(file)?.read(model_config, Dtype::F32)?.weights);
        }
    };
    let loaded = read_folder(dir, model_config, Dtype::F32)?;
    if !loaded.unused.is_empty() {
        let (dir, names) = (dir.display(), loaded.unused.join(", "));
        io.warn(format!("unused tensors in {dir}: {names}"))?;
    }
    Ok(loaded.weights)
}

fn freeze(config: &Config, decoder: &mut Decoder, io: &mut dyn Observer) -> Result<()> {
    io.say("Fine-tuning method: Freeze".into())?;
    let freeze = Freeze {
        layers: config.freeze_trainable_layers,
        modules: &config.freeze_trainable_modules,
        extra: &config.freeze_extra_modules,
    };
    let layers = decoder.blocks.len();
    let parts = freeze
        .apply(&mut decoder.params, layers)
        .map_err(|why| Error::input("freeze_trainable_modules", why))?;
    io.say(format!("Set trainable layers: {}", parts.join(",")))
}

/// Adapters: all but the last of `adapter_name_or_path` are merged, the last is trained on; with
/// `create_new_adapter` all are merged. Where none is left a fresh adapter is made. A checkpoint's
/// adapter takes the place of the one that is trained.
fn adapters(
    config: &Config,
    decoder: &mut Decoder,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<LoraConfig> {
    let mut paths = adapter_paths(config);
    let last = if config.create_new_adapter { None } else { paths.pop() };
    for path in &paths {
        load_adapter(decoder, path)?;
        lora::merge(decoder)?;
    }
    if !paths.is_empty() {
        io.say(format!("Merged {} adapter(s).", paths.len()))?;
    }
    let lora = match resume.map(Path::to_owned).or(last) {
        Some(path) => {
            let lora = load_adapter(decoder, &path)?;
            paths.push(path);
            lora
        }
        None => fresh(config, decoder, io)?,
    };
    if !paths.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        io.say(format!("Loaded adapter(s): {}", names.join(",")))?;
    }
    Ok(lora)
}

/// The folders of the adapters that the arguments name.
fn adapter_paths(config: &Config) -> Vec<PathBuf> {
    let folder = |name: &String| match &config.adapter_folder {
        Some(folder) => Path::new(name).join(folder),
        None => PathBuf::from(name),
    };
    config.adapter_name_or_path.iter().map(folder).collect()
}

/// An adapter as the arguments describe it.
fn fresh(config: &Config, decoder: &mut Decoder, io: &mut dyn Observer) -> Result<LoraConfig> {
    let mut lora = LoraConfig {
        rank: config.lora_rank,
        alpha: config.alpha() as f64,
        dropout: config.lora_dropout as f32,
        rslora: config.use_rslora,
        dora: config.use_dora,
        targets: Targets::of_argument(&config.lora_target),
        whole: config.additional_target.clone(),
    };
    io.say(format!("Fine-tuning method: {}", if lora.dora { "DoRA" } else { "LoRA" }))?;
    let names = lora::attach(decoder, &lora, config.seed)?;
    io.say(format!("Found linear modules: {}", names.join(",")))?;
    if lora.targets == Targets::All {
        lora.targets = Targets::Names(names);
    }
    Ok(lora)
}

fn load_adapter(decoder: &mut Decoder, dir: &Path) -> Result<LoraConfig> {
    let file = read_adapter(dir, &decoder.config)?;
    lora::attach_loaded(decoder, &file.lora, file.weights, &dir.display().to_string())?;
    Ok(file.lora)
}
