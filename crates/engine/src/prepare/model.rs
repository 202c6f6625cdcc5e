//! The model of a run: its weights, the adapters on it, and which parameters are trained.

use std::path::{Path, PathBuf};

use candle_core::Device;
use run::config::{Config, Half};
use run::event::Phase;
use run::fields::FinetuningType;

use crate::device;
use crate::error::{Error, Result};
use crate::model::adapter_file::read_adapter;
use crate::model::config::ModelConfig;
use crate::model::decoder::Decoder;
use crate::model::freeze::Freeze;
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::lora::{self, Init, LoraConfig, Targets};
use crate::model::pissa::Initial;
use crate::model::quantise::{Plan, Target};
use crate::model::weights::{Dtype, Weights, read_folder, read_folder_quantised};
use crate::observer::Observer;
use crate::ops::bf16;
use crate::ops::matmul::Precision;
use crate::tensor::{Place, place_of};
use crate::vocabulary::Resize;

/// A model that is ready to train.
pub(super) struct Loaded {
    /// The model, with its adapters.
    pub decoder: Decoder,
    /// The settings of the adapter that is trained.
    pub lora: Option<LoraConfig>,
    /// What PiSSA took out of the weights.
    pub pissa: Option<Initial>,
}

/// Reads the model, puts adapters on it and marks what is trained. With a checkpoint to resume
/// from, the trained weights are read from it.
pub(super) fn load(
    config: &Config,
    location: &ModelLocation,
    mut model_config: ModelConfig,
    resize: Option<Resize>,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<Loaded> {
    let device = device::choose(config, io)?;
    let quantised = match plan(config, &model_config, resume)? {
        // Packed weights are computed with on the CPU only, and do not grow.
        Some(Plan { target: Target::Half(_), .. }) if !device.is_cpu() || resize.is_some() => None,
        Some(_) if resize.is_some() => {
            let why = "Cannot resize embedding layers of a quantized model.";
            return Err(Error::input("quantization_bit", why));
        }
        plan => plan,
    };
    let precision = precision(config, &device, quantised.is_some(), io)?;
    let whole_model = config.finetuning_type != FinetuningType::Lora;
    let old_rows = model_config.vocab_size;
    if let Some(resize) = resize.as_ref().filter(|_| whole_model && resume.is_some()) {
        // The checkpoint's embedding has grown already.
        model_config.vocab_size = resize.rows;
    }
    let mut weights = match resume.filter(|_| whole_model) {
        Some(checkpoint) => read_folder(checkpoint, &model_config, Dtype::F32)?.weights,
        None if config.train_from_scratch || quantised.is_some() => Weights::default(),
        None => read(location, &model_config, io)?,
    };
    if let Some(resize) = &resize {
        if model_config.vocab_size != resize.rows {
            resize.apply(&mut model_config, &mut weights, config.seed);
        }
        io.say(format!("Resized token embeddings from {old_rows} to {}.", resize.rows))?;
    }
    let mut decoder = match quantised {
        Some(plan) => read_quantised(location, model_config, &plan, io)?,
        None if weights.is_empty() => Decoder::from_scratch(model_config, config.seed, &device)?,
        None => Decoder::new(model_config, weights, &device)?,
    };
    decoder.set_precision(precision);
    decoder.neftune = config.neftune_noise_alpha.filter(|alpha| *alpha > 0.0);
    let (mut lora, mut pissa) = (None, None);
    match config.finetuning_type {
        FinetuningType::Full => {
            decoder.params.set_trainable(|_| true);
            io.say("Fine-tuning method: Full".into())?;
        }
        FinetuningType::Freeze => freeze(config, &mut decoder, io)?,
        FinetuningType::Lora => {
            let whole = whole_modules(config, resize.is_some(), io)?;
            let (settings, initial) = adapters(config, whole, &mut decoder, resume, io)?;
            if config.pissa_convert && initial.is_none() {
                let why = "the adapter that is trained did not begin with PiSSA";
                return Err(Error::input("pissa_convert", why));
            }
            lora::set_trained(&mut decoder, &settings)?;
            if let Some(ratio) = config.loraplus_lr_ratio {
                io.say(format!("Using LoRA+ optimizer with loraplus lr ratio {ratio:.2}."))?;
            }
            (lora, pissa) = (Some(settings), initial);
        }
    }
    Ok(Loaded { decoder, lora, pissa })
}

/// What products are computed in. Only bf16 has units of its own that are used; where nothing of what
/// was asked for has a use, the log says so.
fn precision(
    config: &Config,
    device: &Device,
    packed: bool,
    io: &mut dyn Observer,
) -> Result<Precision> {
    let Some(half) = config.half() else {
        return Ok(Precision::F32);
    };
    let kept = "weights that are trained or changed, gradients and moments stay in f32";
    let unit = match place_of(device) {
        Place::Host if bf16::available() => Some(bf16::unit_name()),
        Place::Gpu(_) => Some("tensor cores"),
        _ => None,
    };
    if let (Half::Bf16, Some(unit)) = (half, unit) {
        io.say(format!("bf16: products of bf16 operands ({unit}) with sums in f32; {kept}."))?;
        return Ok(Precision::Bf16);
    }
    if !packed {
        // Memory is what 16 bits would save, of weights that nothing changes.
        let what = format!("{kept}, and products are computed in f32");
        io.warn(format!("{}: {what}; it changes nothing in this run", half.name()))?;
    }
    Ok(Precision::F32)
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
fn read_quantised(
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

/// Modules that are trained whole beside the adapter: as asked, else the embedding and the head where
/// new rows were put in, which an adapter alone would leave as they began.
fn whole_modules(config: &Config, resized: bool, io: &mut dyn Observer) -> Result<Vec<String>> {
    let asked = &config.additional_target;
    if !resized || !asked.is_empty() {
        return Ok(asked.clone());
    }
    let names = ["embed_tokens", "lm_head"].map(str::to_owned).to_vec();
    io.warn(format!("Vocab has been resized, add {} to trainable params.", names.join(",")))?;
    Ok(names)
}

/// Adapters: all but the last of `adapter_name_or_path` are merged, the last is trained on; with
/// `create_new_adapter` all are merged. Where none is left a fresh adapter is made. A checkpoint's
/// adapter takes the place of the one that is trained.
fn adapters(
    config: &Config,
    whole: Vec<String>,
    decoder: &mut Decoder,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<(LoraConfig, Option<Initial>)> {
    let mut paths = adapter_paths(config);
    let last = if config.create_new_adapter { None } else { paths.pop() };
    for path in &paths {
        load_adapter(decoder, path, None, io)?;
        lora::merge(decoder)?;
    }
    if !paths.is_empty() {
        io.say(format!("Merged {} adapter(s).", paths.len()))?;
    }
    let seed = resume.map(|_| config.seed);
    let made = match resume.map(Path::to_owned).or(last) {
        Some(path) => {
            let made = load_adapter(decoder, &path, seed, io)?;
            paths.push(path);
            made
        }
        None => fresh(config, whole, decoder, io)?,
    };
    if !paths.is_empty() {
        let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        io.say(format!("Loaded adapter(s): {}", names.join(",")))?;
    }
    Ok(made)
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
fn fresh(
    config: &Config,
    whole: Vec<String>,
    decoder: &mut Decoder,
    io: &mut dyn Observer,
) -> Result<(LoraConfig, Option<Initial>)> {
    let mut lora = LoraConfig {
        rank: config.lora_rank,
        alpha: config.alpha() as f64,
        dropout: config.lora_dropout as f32,
        rslora: config.use_rslora,
        dora: config.use_dora,
        targets: Targets::of_argument(&config.lora_target),
        whole,
        init: match u32::try_from(config.pissa_iter) {
            _ if !config.pissa_init => Init::Usual,
            Ok(rounds) => Init::PissaFast(rounds),
            Err(_) => Init::Pissa,
        },
    };
    io.say(format!("Fine-tuning method: {}", if lora.dora { "DoRA" } else { "LoRA" }))?;
    let names = lora::attach(decoder, &lora, config.seed)?;
    io.say(format!("Found linear modules: {}", names.join(",")))?;
    if lora.targets == Targets::All {
        lora.targets = Targets::Names(names);
    }
    match lora.init {
        Init::Usual => return Ok((lora, None)),
        Init::Pissa => io.say("Using PiSSA initialization.".into())?,
        Init::PissaFast(n) => {
            io.say(format!("Using PiSSA initialization with FSVD steps {n}."))?;
        }
    }
    let initial = decompose(decoder, &lora, config.seed, io)?;
    initial.begin(decoder)?;
    initial.subtract(decoder, &lora)?;
    Ok((lora, Some(initial)))
}

fn decompose(
    decoder: &mut Decoder,
    lora: &LoraConfig,
    seed: u64,
    io: &mut dyn Observer,
) -> Result<Initial> {
    Initial::decompose(decoder, lora, seed, &mut |done, total| {
        io.progress(Phase::Model, done, total)
    })
}

/// Puts the adapter in `dir` on the model. One that began with PiSSA belongs to what it left of the
/// weights: that is made again from its first matrices, or by the decomposition where it must have
/// been the same one (`seed`: that of the run which is resumed).
fn load_adapter(
    decoder: &mut Decoder,
    dir: &Path,
    seed: Option<u64>,
    io: &mut dyn Observer,
) -> Result<(LoraConfig, Option<Initial>)> {
    let file = read_adapter(dir, &decoder.config)?;
    lora::attach_loaded(decoder, &file.lora, file.weights, &dir.display().to_string())?;
    if file.lora.init == Init::Usual {
        return Ok((file.lora, None));
    }
    let initial = match (Initial::find(dir, decoder)?, file.lora.init) {
        (Some(found), _) => found,
        (None, Init::PissaFast(_)) if seed.is_none() => {
            let why = "began with PiSSA's random form, and its first matrices (pissa_init) are not \
                       there; use the converted adapter (pissa_convert)";
            return Err(Error::input(dir.display().to_string(), why));
        }
        (None, _) => decompose(decoder, &file.lora, seed.unwrap_or_default(), io)?,
    };
    initial.subtract(decoder, &file.lora)?;
    Ok((file.lora, Some(initial)))
}
