//! Everything before the first step: tokenizer, rows, model, and which parameters are trained.

mod model;

use std::path::Path;

use run::config::Config;
use run::event::Phase;
use run::fields::{FinetuningType, MixStrategy, Stage};

use crate::allocator;
use crate::batch::Sequence;
use crate::data::encode::Row;
use crate::data::load::stream::Stream;
use crate::data::load::{self, DataArgs, prepare_template, saved};
use crate::data::order::Mix;
use crate::data::template::{Template, TemplateOptions};
use crate::data::tokenizer::Tokenizer;
use crate::data::tools::RunDate;
use crate::error::{Error, Result};
use crate::method;
use crate::model::config::{ModelConfig, check_vocab};
use crate::model::decoder::Decoder;
use crate::model::gguf::Gguf;
use crate::model::gguf_tokenizer;
use crate::model::hub::{HubEnv, ModelLocation, resolve_model};
use crate::model::lora::LoraConfig;
use crate::model::pissa::Initial;
use crate::model::store::Params;
use crate::observer::Observer;
use crate::rows::Rows;
use crate::vocabulary::{self, Resize};

/// What the engine must be told of the world: it reads no environment and no clock.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Where the hubs' caches lie.
    pub hub: HubEnv,
    /// The run's start, seconds since 1970: the date that some templates name.
    pub started_unix_s: i64,
    /// CPU threads there are.
    pub cores: usize,
    /// Bytes of memory that the process may still take, where that is known.
    pub memory: Option<u64>,
}

impl Surroundings {
    /// Threads that a run computes with.
    #[must_use]
    pub fn threads(&self, config: &Config) -> usize {
        config.threads.unwrap_or(self.cores).max(1)
    }

    /// Does `work` on the threads that a run computes with, and tells it how many they are.
    ///
    /// # Errors
    /// When the threads cannot be started, and those of `work`.
    pub fn install<R: Send>(
        &self,
        config: &Config,
        work: impl FnOnce(usize) -> Result<R> + Send,
    ) -> Result<R> {
        allocator::keep_freed_memory();
        let threads = self.threads(config);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool =
            pool.map_err(|e| Error::Internal(format!("cannot start {threads} threads: {e}")))?;
        pool.install(|| work(threads))
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
    /// Training rows in file order, or in the order of the stream.
    pub train: Rows,
    /// Evaluation sets by name; the one set without a name has an empty one.
    pub eval: Vec<(String, Vec<Sequence>)>,
    /// The adapter's settings, where the method has one.
    pub lora: Option<LoraConfig>,
    /// What PiSSA took out of the weights, where the adapter began so.
    pub pissa: Option<Initial>,
    /// Where the model was read from.
    pub location: ModelLocation,
    /// How the embedding grew.
    resize: Option<Resize>,
}

/// The text side: tokenizer, template, rows.
pub struct Texts {
    /// See [`Prepared::tokenizer`].
    pub tokenizer: Option<Tokenizer>,
    /// See [`Prepared::template`].
    pub template: Option<Template>,
    /// The rows.
    pub dataset: load::Dataset,
    /// Training rows where they are streamed; the data set has none then.
    pub stream: Option<Stream>,
    /// How the embedding must grow for the tokenizer.
    pub resize: Option<Resize>,
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
    let resize = texts.resize;
    let vocab_size = resize.as_ref().map_or(model_config.vocab_size, |r| r.rows);
    check_ids(&texts.dataset, vocab_size)?;
    io.phase(Phase::Model)?;
    let model::Loaded { mut decoder, lora, pissa } =
        model::load(config, &location, model_config, resize.clone(), resume, io)?;
    decoder.set_objective(method::objective(config));
    let sequences = |rows: Vec<Row>| rows.into_iter().map(sequence).collect::<Vec<_>>();
    let load::Dataset { train, eval, .. } = texts.dataset;
    let train = match texts.stream {
        Some(stream) => Rows::streamed(stream, streamed_rows(config), vocab_size),
        None => Rows::Held(sequences(train)),
    };
    Ok(Prepared {
        decoder,
        tokenizer: texts.tokenizer,
        template: texts.template,
        train,
        eval: eval.into_iter().map(|(name, rows)| (name, sequences(rows))).collect(),
        lora,
        pissa,
        location,
        resize,
    })
}

/// Goes back to the weights of a checkpoint; the model in memory is given up first.
///
/// # Errors
/// When the checkpoint cannot be read.
pub fn reload(
    prepared: &mut Prepared,
    config: &Config,
    checkpoint: &Path,
    io: &mut dyn Observer,
) -> Result<()> {
    prepared.decoder.params = Params::default();
    let (location, resize) = (&prepared.location, prepared.resize.clone());
    let shape = read_config(location)?;
    let loaded = model::load(config, location, shape, resize, Some(checkpoint), io)?;
    prepared.decoder = loaded.decoder;
    prepared.decoder.set_objective(method::objective(config));
    prepared.lora = loaded.lora;
    prepared.pissa = loaded.pissa;
    Ok(())
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
    config.create_new_adapter = false;
    if config.adapter_name_or_path.is_empty() {
        config.finetuning_type = FinetuningType::Full;
    }
    // A loss is over all rows, each once.
    config.streaming = false;
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
    let mut args = data_args(config, around);
    args.vocab_size = model.map(|m| m.vocab_size);
    args.cache = io.cache();
    let mut tokenizer = match location {
        // rows may be tokens already
        ModelLocation::Folder(dir) if !dir.join("tokenizer.json").exists() => None,
        _ => Some(read_tokenizer(location)?),
    };
    let (mut template, mut resize) = (None, None);
    if let Some(tokenizer) = &mut tokenizer {
        if let Some(model) = model.filter(|_| !config.resize_vocab) {
            check_vocab(model, tokenizer.vocab_size(), &location.path().display().to_string())?;
        }
        let added = vocabulary::extend(config, tokenizer, io)?;
        let (made, notices) = prepare_template(&args, tokenizer)?;
        template = Some(made);
        for notice in notices {
            io.say(notice)?;
        }
        if let Some(model) = model {
            resize = vocabulary::plan(config, &added, tokenizer, model)?;
            args.vocab_size = Some(resize.as_ref().map_or(model.vocab_size, |r| r.rows));
        }
    }
    io.phase(Phase::Data)?;
    let kit = tokenizer.as_ref().zip(template.as_ref());
    let (dataset, stream) = read_rows(config, &args, kit, io)?;
    for line in dataset.report.lines() {
        io.say(line)?;
    }
    Ok(Texts { tokenizer, template, dataset, stream, resize })
}

/// The rows: from `tokenized_path` where it holds some, else from the data sets (and then kept there).
fn read_rows(
    config: &Config,
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    io: &mut dyn Observer,
) -> Result<(load::Dataset, Option<Stream>)> {
    let path = config.tokenized_path.as_deref().map(Path::new);
    if let Some(path) = path.filter(|path| saved::is_saved(path)) {
        io.warn("Loading dataset from disk will ignore other data arguments.".into())?;
        let dataset = saved::load(path)?;
        io.say(format!("Loaded tokenized dataset from {}.", path.display()))?;
        return Ok((dataset, None));
    }
    if config.streaming && path.is_some() {
        let why = "Turn off `streaming` when saving dataset to disk.";
        return Err(Error::input("tokenized_path", why));
    }
    let mut told = io.elapsed_s();
    let mut failed = None;
    let mut progress = |done, total| {
        if io.elapsed_s() - told > 0.5 {
            told = io.elapsed_s();
            failed = io.progress(Phase::Data, done, total).err().or(failed.take());
        }
    };
    let (dataset, stream) = if config.streaming {
        let (stream, dataset) = Stream::open(args, config.buffer_size, kit, &mut progress)?;
        (dataset, Some(stream))
    } else {
        (load::load(args, kit, &mut progress)?, None)
    };
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(path) = path {
        let pad = kit.and_then(|(tokenizer, _)| tokenizer.pad_id()).unwrap_or(0);
        saved::save(path, &dataset, pad)?;
        let path = path.display();
        io.say(format!("Tokenized dataset is saved at {path}."))?;
        io.say(format!("Please launch the training with `tokenized_path: {path}`."))?;
    }
    Ok((dataset, stream))
}

/// Rows that a run reads from a stream: those of all its steps.
fn streamed_rows(config: &Config) -> usize {
    let steps = usize::try_from(config.max_steps).unwrap_or(0);
    steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
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

/// The model's tokenizer, from its folder or file.
///
/// # Errors
/// When there is none or it cannot be read.
pub fn read_tokenizer(location: &ModelLocation) -> Result<Tokenizer> {
    match location {
        ModelLocation::Folder(dir) => Ok(Tokenizer::from_folder(dir)?),
        ModelLocation::Gguf(file) => {
            let (inner, config) = gguf_tokenizer::tokenizer(&Gguf::open(file)?)?;
            Ok(Tokenizer::from_parts(inner, config)?)
        }
    }
}

fn data_args(config: &Config, around: &Surroundings) -> DataArgs {
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
        vocab_size: None,
        cache: None,
        overwrite_cache: config.overwrite_cache,
    }
}

/// Tokens that a template added to the vocabulary have no row in the embedding.
fn check_ids(dataset: &load::Dataset, vocab_size: usize) -> Result<()> {
    let sets = std::iter::once(&dataset.train).chain(dataset.eval.iter().map(|(_, rows)| rows));
    let largest = sets.flatten().flat_map(|row| &row.input_ids).max();
    match largest {
        Some(id) if *id as usize >= vocab_size => Err(Error::input(
            "dataset",
            format!(
                "a row has token id {id}, but the model's embedding has {vocab_size} rows \
                 (vocab_size); use the template and tokenizer that belong to the model, or set \
                 resize_vocab: true"
            ),
        )),
        _ => Ok(()),
    }
}

/// A row as the engine sees it: positions restart in a pack, and the segments of a neat pack do not
/// attend to each other. Padding changes no loss and is left out.
pub(crate) fn sequence(row: Row) -> Sequence {
    let whole = vec![row.input_ids.len()];
    let segments = if row.segments.is_empty() { whole.clone() } else { row.segments };
    Sequence {
        positions: segments.iter().flat_map(|n| 0..*n as u32).collect(),
        parts: if row.neat { segments } else { whole },
        input_ids: row.input_ids,
        labels: row.labels,
    }
}
