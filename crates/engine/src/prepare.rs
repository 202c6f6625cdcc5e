//! Everything before the first step: tokenizer, rows, model, and which parameters are trained.

use std::path::{Path, PathBuf};

use candle_core::Device;
use run::config::Config;
use run::event::Phase;
use run::fields::{FinetuningType, MixStrategy, Stage};

use crate::batch::Sequence;
use crate::data::encode::Row;
use crate::data::load::{self, DataArgs, prepare_template};
use crate::data::order::Mix;
use crate::data::template::{Template, TemplateOptions};
use crate::data::tokenizer::Tokenizer;
use crate::data::tools::RunDate;
use crate::error::{Error, Result};
use crate::method;
use crate::model::adapter_file::read_adapter;
use crate::model::config::{ModelConfig, check_vocab};
use crate::model::decoder::Decoder;
use crate::model::gguf::Gguf;
use crate::model::gguf_tokenizer;
use crate::model::hub::{HubEnv, ModelLocation, resolve_model};
use crate::model::lora::{self, LoraConfig};
use crate::model::quantise::Plan;
use crate::model::store::Role;
use crate::model::weights::{Dtype, read_folder, read_folder_quantised};
use crate::observer::Observer;

/// What the engine must be told of the world: it reads no environment and no clock.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the hubs' caches lie.
    pub hub: HubEnv,
    /// The run's start, seconds since 1970: the date that some templates name.
    pub started_unix_s: i64,
    /// CPU threads there are.
    pub cores: usize,
}

impl Surroundings {
    /// Threads that a run computes with.
    #[must_use]
    pub fn threads(&self, config: &Config) -> usize {
        config.threads.unwrap_or(self.cores).max(1)
    }
}

/// A model, its tokenizer and the rows to train it on.
pub struct Prepared {
    /// The model, with adapters where the method has them.
    pub decoder: Decoder,
    /// The tokenizer, fixed by the template; none where rows are tokens and the model has none.
    pub tokenizer: Option<Tokenizer>,
    /// The template.
    pub template: Option<Template>,
    /// Training rows in file order.
    pub train: Vec<Sequence>,
    /// Evaluation sets by name; the one set without a name has an empty one.
    pub eval: Vec<(String, Vec<Sequence>)>,
    /// The adapter's settings, where the method has one.
    pub lora: Option<LoraConfig>,
    /// Where the model was read from.
    pub location: ModelLocation,
}

/// The text side: tokenizer, template, rows.
pub struct Texts {
    /// See [`Prepared::tokenizer`].
    pub tokenizer: Option<Tokenizer>,
    /// See [`Prepared::template`].
    pub template: Option<Template>,
    /// The rows.
    pub dataset: load::Dataset,
}

/// Loads everything that `config` names. With a checkpoint to resume from, the trained weights are
/// read from it rather than from the model.
///
/// # Errors
/// When an input is missing or does not fit; the text names file and place.
pub fn load(
    config: &Config,
    around: &Surroundings,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<Prepared> {
    let location = locate(config, around)?;
    let model_config = stretch(config, read_config(&location)?, io)?;
    let texts = load_texts(config, around, &location, Some(&model_config), io)?;
    check_ids(&texts.dataset, &model_config)?;
    io.phase(Phase::Model)?;
    let (mut decoder, lora) = load_model(config, &location, model_config, resume, io)?;
    decoder.set_objective(method::objective(config));
    let sequences = |rows: Vec<Row>| rows.into_iter().map(sequence).collect::<Vec<_>>();
    let load::Dataset { train, eval, .. } = texts.dataset;
    Ok(Prepared {
        decoder,
        tokenizer: texts.tokenizer,
        template: texts.template,
        train: sequences(train),
        eval: eval.into_iter().map(|(name, rows)| (name, sequences(rows))).collect(),
        lora,
        location,
    })
}

/// As [`load`], for a model whose loss is asked: adapters are those that the config names, none is
/// made.
///
/// # Errors
/// As [`load`].
pub fn load_for_eval(
    config: &Config,
    around: &Surroundings,
    io: &mut dyn Observer,
) -> Result<Prepared> {
    let mut config = config.clone();
    if config.adapter_name_or_path.is_empty() {
        config.finetuning_type = FinetuningType::Full;
    }
    load(&config, around, None, io)
}

/// Tokenizer, template and rows alone: what `tallow data` shows.
///
/// # Errors
/// As [`load`].
pub fn load_texts(
    config: &Config,
    around: &Surroundings,
    location: &ModelLocation,
    model: Option<&ModelConfig>,
    io: &mut dyn Observer,
) -> Result<Texts> {
    io.phase(Phase::Tokenizer)?;
    let args = data_args(config, around, model);
    let mut tokenizer = read_tokenizer(location)?;
    let mut template = None;
    if let (Some(tokenizer), Some(model)) = (&tokenizer, model) {
        check_vocab(model, tokenizer.vocab_size(), &location.path().display().to_string())?;
    }
    if let Some(tokenizer) = &mut tokenizer {
        let (made, notices) = prepare_template(&args, tokenizer)?;
        template = Some(made);
        for notice in notices {
            io.say(notice)?;
        }
    }
    io.phase(Phase::Data)?;
    let kit = tokenizer.as_ref().zip(template.as_ref());
    let mut told = io.elapsed_s();
    let mut failed = None;
    let dataset = load::load(&args, kit, &mut |done, total| {
        if io.elapsed_s() - told > 0.5 {
            told = io.elapsed_s();
            failed = io.progress(Phase::Data, done, total).err().or(failed.take());
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    for line in dataset.report.lines() {
        io.say(line)?;
    }
    Ok(Texts { tokenizer, template, dataset })
}

/// Where the model of `config` lies.
///
/// # Errors
/// When it is nowhere; the text says how to point to a folder.
pub fn locate(config: &Config, around: &Surroundings) -> Result<ModelLocation> {
    let Some(name) = config.model_name_or_path.as_deref().filter(|n| !n.is_empty()) else {
        return Err(Error::input("model_name_or_path", "Please provide `model_name_or_path`."));
    };
    let cache = config.cache_dir.as_deref().map(Path::new);
    resolve_model(name, &config.model_revision, cache, &around.hub)
}

/// The model's config, from its folder or file.
///
/// # Errors
/// When it cannot be read or asks for what the engine does not know.
pub fn read_config(location: &ModelLocation) -> Result<ModelConfig> {
    match location {
        ModelLocation::Folder(dir) => ModelConfig::from_file(&dir.join("config.json")),
        ModelLocation::Gguf(file) => Ok(Gguf::open(file)?.config()?),
    }
}

/// The model's config with the context that `rope_scaling` asks for.
fn stretch(config: &Config, model: ModelConfig, io: &mut dyn Observer) -> Result<ModelConfig> {
    let Some(kind) = config.rope_scaling else {
        return Ok(model);
    };
    let (model, told) = model.stretched(kind, Some(config.cutoff_len))?;
    for line in told {
        io.say(line)?;
    }
    Ok(model)
}

fn read_tokenizer(location: &ModelLocation) -> Result<Option<Tokenizer>> {
    match location {
        ModelLocation::Folder(dir) if !dir.join("tokenizer.json").exists() => Ok(None),
        ModelLocation::Folder(dir) => Ok(Some(Tokenizer::from_folder(dir)?)),
        ModelLocation::Gguf(file) => {
            let (inner, config) = gguf_tokenizer::tokenizer(&Gguf::open(file)?)?;
            Ok(Some(Tokenizer::from_parts(inner, config)?))
        }
    }
}

fn load_model(
    config: &Config,
    location: &ModelLocation,
    model_config: ModelConfig,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<(Decoder, Option<LoraConfig>)> {
    if let Some(plan) = Plan::of(config)? {
        let decoder = load_quantised(location, model_config, &plan, io)?;
        return attach(config, decoder, resume, io);
    }
    let full = config.finetuning_type == FinetuningType::Full;
    let weights = match (location, resume) {
        (_, Some(checkpoint)) if full => {
            read_folder(checkpoint, &model_config, Dtype::F32)?.weights
        }
        _ if config.train_from_scratch => Default::default(),
        (ModelLocation::Folder(dir), _) => {
            let loaded = read_folder(dir, &model_config, Dtype::F32)?;
            if !loaded.unused.is_empty() {
                io.warn(format!(
                    "unused tensors in {}: {}",
                    dir.display(),
                    loaded.unused.join(", ")
                ))?;
            }
            loaded.weights
        }
        (ModelLocation::Gguf(file), _) => {
            Gguf::open(file)?.read(&model_config, Dtype::F32)?.weights
        }
    };
    let decoder = match weights.is_empty() {
        true => Decoder::from_scratch(model_config, config.seed, &Device::Cpu)?,
        false => Decoder::new(model_config, weights, &Device::Cpu)?,
    };
    attach(config, decoder, resume, io)
}

/// A base that stays quantised.
fn load_quantised(
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

/// What the method trains.
fn attach(
    config: &Config,
    mut decoder: Decoder,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<(Decoder, Option<LoraConfig>)> {
    match config.finetuning_type {
        FinetuningType::Full => {
            decoder.params.set_trainable(|_| true);
            io.say("Fine-tuning method: Full".into())?;
            Ok((decoder, None))
        }
        FinetuningType::Lora => {
            let lora = attach_adapter(config, &mut decoder, resume, io)?;
            decoder.params.set_trainable(|p| p.role == Role::Adapter);
            Ok((decoder, Some(lora)))
        }
        FinetuningType::Freeze => {
            Err(Error::input("finetuning_type", "freeze is not supported yet; use full or lora"))
        }
    }
}

/// Adapters: all but the last of `adapter_name_or_path` are merged, the last is trained on; without
/// one a fresh adapter is made. A checkpoint's adapter goes before the last one.
fn attach_adapter(
    config: &Config,
    decoder: &mut Decoder,
    resume: Option<&Path>,
    io: &mut dyn Observer,
) -> Result<LoraConfig> {
    let mut paths: Vec<PathBuf> = config.adapter_name_or_path.iter().map(PathBuf::from).collect();
    if let Some(checkpoint) = resume {
        paths.pop();
        paths.push(checkpoint.to_owned());
    }
    let last = paths.pop();
    for path in &paths {
        load_adapter(decoder, path)?;
        lora::merge(decoder)?;
        io.say(format!("Merged adapter {}.", path.display()))?;
    }
    if let Some(path) = last {
        let (lora, names) = load_adapter(decoder, &path)?;
        io.say(format!("Loaded adapter {} on {}.", path.display(), names.join(",")))?;
        return Ok(lora);
    }
    let all = config.lora_target.iter().any(|t| t == "all") || config.lora_target.is_empty();
    let lora = LoraConfig {
        rank: config.lora_rank,
        alpha: config.alpha() as f64,
        dropout: config.lora_dropout as f32,
        rslora: config.use_rslora,
        targets: if all { Vec::new() } else { config.lora_target.clone() },
    };
    let names = lora::attach(decoder, &lora, config.seed)?;
    io.say("Fine-tuning method: LoRA".into())?;
    io.say(format!("Found linear modules: {}", names.join(",")))?;
    Ok(LoraConfig { targets: names, ..lora })
}

fn load_adapter(decoder: &mut Decoder, dir: &Path) -> Result<(LoraConfig, Vec<String>)> {
    let file = read_adapter(dir, &decoder.config)?;
    let names = lora::attach_loaded(decoder, &file.lora, file.weights, &dir.display().to_string())?;
    Ok((file.lora, names))
}

fn data_args(config: &Config, around: &Surroundings, model: Option<&ModelConfig>) -> DataArgs {
    DataArgs {
        stage: match config.stage {
            Stage::Sft => load::Stage::Sft,
            Stage::Pt => load::Stage::Pt,
        },
        dataset: config.dataset.clone(),
        eval_dataset: config.eval_dataset.clone(),
        dataset_dir: config.dataset_dir.clone(),
        template: config.template.clone(),
        template_options: TemplateOptions {
            tool_format: config.tool_format.clone(),
            default_system: config.default_system.clone(),
            enable_thinking: config.enable_thinking,
            preserve_thinking: config.preserve_thinking,
            date: Some(RunDate::from_unix(around.started_unix_s)),
        },
        cutoff_len: config.cutoff_len,
        train_on_prompt: config.train_on_prompt,
        mask_history: config.mask_history,
        mix_strategy: match config.mix_strategy {
            MixStrategy::Concat => Mix::Concat,
            MixStrategy::InterleaveUnder => Mix::InterleaveUnder,
            MixStrategy::InterleaveOver => Mix::InterleaveOver,
            MixStrategy::InterleaveOnce => Mix::InterleaveOnce,
        },
        interleave_probs: match config.interleave_probs.is_empty() {
            true => None,
            false => Some(config.interleave_probs.clone()),
        },
        max_samples: config.max_samples,
        val_size: config.val_size,
        eval_on_each_dataset: config.eval_on_each_dataset,
        packing: config.packing,
        neat_packing: config.neat_packing,
        preprocessing_batch_size: config.preprocessing_batch_size,
        preprocessing_num_workers: config.preprocessing_num_workers,
        seed: config.seed,
        vocab_size: model.map(|m| m.vocab_size),
    }
}

/// Tokens that a template added to the vocabulary have no row in the embedding.
fn check_ids(dataset: &load::Dataset, model: &ModelConfig) -> Result<()> {
    let sets = std::iter::once(&dataset.train).chain(dataset.eval.iter().map(|(_, rows)| rows));
    let largest = sets.flatten().flat_map(|row| &row.input_ids).max();
    match largest {
        Some(id) if *id as usize >= model.vocab_size => Err(Error::input(
            "dataset",
            format!(
                "a row has token id {id}, but the model's embedding has {} rows (vocab_size); use \
                 the template and tokenizer that belong to the model",
                model.vocab_size
            ),
        )),
        _ => Ok(()),
    }
}

/// A row as the engine sees it: positions restart in a pack, and the segments of a neat pack do not
/// attend to each other. Padding changes no loss and is left out.
fn sequence(row: Row) -> Sequence {
    let whole = vec![row.input_ids.len()];
    let segments = if row.segments.is_empty() { whole.clone() } else { row.segments };
    Sequence {
        positions: segments.iter().flat_map(|n| 0..*n as u32).collect(),
        parts: if row.neat { segments } else { whole },
        input_ids: row.input_ids,
        labels: row.labels,
    }
}
