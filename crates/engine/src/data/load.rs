//! The data stage as a whole: read, align, mix, split, tokenise.

mod cache;
mod rows;
pub mod saved;
pub mod stream;
mod tokenise;

use std::collections::VecDeque;
use std::path::PathBuf;

use super::encode::{Labelling, Row};
use super::error::DataError;
use super::info::{self, DatasetInfo};
use super::order::{self, HoldOut, MIN_VAL_SIZE, Mix, Sampler};
use super::report::Report;
use super::template::{Template, TemplateOptions};
use super::tokenizer::Tokenizer;
use rows::Item;

/// What the rows are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Supervised fine-tuning: conversations, of which the answers are trained.
    #[default]
    Sft,
    /// Pretraining: texts, all of which is trained.
    Pt,
}

/// The arguments of the data stage, named as LLaMA-Factory names them.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named and explained as in the field table of crates/run")]
pub struct DataArgs {
    pub stage: Stage,
    pub dataset: Vec<String>,
    pub eval_dataset: Vec<String>,
    pub dataset_dir: String,
    pub template: Option<String>,
    pub template_options: TemplateOptions,
    pub cutoff_len: usize,
    pub train_on_prompt: bool,
    pub mask_history: bool,
    pub mix_strategy: Mix,
    pub interleave_probs: Option<Vec<f64>>,
    pub max_samples: Option<usize>,
    pub val_size: f64,
    pub eval_on_each_dataset: bool,
    pub packing: Option<bool>,
    pub neat_packing: bool,
    pub preprocessing_batch_size: usize,
    pub preprocessing_num_workers: Option<usize>,
    pub seed: u64,
    /// How many ids the model knows, for rows of `formatting: tokens`; the tokenizer's count where this is `None`.
    pub vocab_size: Option<usize>,
    /// The folder that encoded rows are kept in; nothing is kept where this is `None`.
    pub cache: Option<PathBuf>,
    pub overwrite_cache: bool,
}

impl Default for DataArgs {
    fn default() -> Self {
        Self {
            stage: Stage::Sft,
            dataset: Vec::new(),
            eval_dataset: Vec::new(),
            dataset_dir: "data".to_string(),
            template: None,
            template_options: TemplateOptions {
                enable_thinking: Some(true),
                ..TemplateOptions::default()
            },
            cutoff_len: 2048,
            train_on_prompt: false,
            mask_history: false,
            mix_strategy: Mix::Concat,
            interleave_probs: None,
            max_samples: None,
            val_size: 0.0,
            eval_on_each_dataset: false,
            packing: None,
            neat_packing: false,
            preprocessing_batch_size: 1000,
            preprocessing_num_workers: None,
            seed: 42,
            vocab_size: None,
            cache: None,
            overwrite_cache: false,
        }
    }
}

impl DataArgs {
    /// Whether rows are packed: as given, or by default in pretraining.
    pub fn packs(&self) -> bool {
        self.neat_packing || self.packing.unwrap_or(self.stage == Stage::Pt)
    }

    /// The most tokens a row may have before padding: asking for packing costs one, as in the reference.
    pub fn capacity(&self) -> usize {
        let asked = self.neat_packing || self.packing == Some(true);
        self.cutoff_len.saturating_sub(usize::from(asked))
    }

    fn labelling(&self) -> Labelling {
        let (train_on_prompt, mask_history) = (self.train_on_prompt, self.mask_history);
        Labelling { cutoff_len: self.capacity(), train_on_prompt, mask_history }
    }

    fn check(&self) -> Result<(), DataError> {
        let problem = if self.cutoff_len == 0 {
            "cutoff_len: must be at least 1"
        } else if self.preprocessing_batch_size == 0 {
            "preprocessing_batch_size: must be at least 1"
        } else if self.mask_history && self.train_on_prompt {
            "`mask_history` is incompatible with `train_on_prompt`."
        } else if !self.eval_dataset.is_empty() && self.val_size > MIN_VAL_SIZE {
            "Cannot specify `val_size` if `eval_dataset` is not None."
        } else if self.dataset.is_empty() && self.val_size > MIN_VAL_SIZE {
            "Cannot specify `val_size` if `dataset` is None."
        } else if self.neat_packing && self.stage != Stage::Sft {
            "`neat_packing` cannot be set as True except SFT."
        } else if self.interleave_probs.is_some() && self.mix_strategy == Mix::Concat {
            "`interleave_probs` is only valid for interleaved mixing."
        } else {
            return Ok(());
        };
        Err(DataError::invalid(problem))
    }
}

/// Rows ready for training and evaluation.
#[derive(Clone, Debug, Default)]
pub struct Dataset {
    /// Training rows in the order of the data; [`order::epoch_order`] shuffles them.
    pub train: Vec<Row>,
    /// Evaluation sets by name; the name is empty where there is one set that needs none.
    pub eval: Vec<(String, Vec<Row>)>,
    /// What happened on the way.
    pub report: Report,
}

/// The template that `args` name, with their settings, and the tokenizer made to fit it. Also what was changed, one
/// sentence each.
///
/// # Errors
/// When the template is not known or does not fit the tokenizer.
pub fn prepare_template(
    args: &DataArgs,
    tokenizer: &mut Tokenizer,
) -> Result<(Template, Vec<String>), DataError> {
    let mut notices = Vec::new();
    let mut template = match &args.template {
        Some(name) => Template::get(name)?,
        None => {
            let way = if tokenizer.chat_template().is_some() {
                "try parsing the chat template from the tokenizer"
            } else {
                "use `empty` template"
            };
            notices.push(format!("`template` was not specified, {way}."));
            Template::from_tokenizer(tokenizer, args.template_options.date)?
        }
    };
    if args.train_on_prompt && template.efficient_eos {
        return Err(DataError::invalid(format!(
            "Current template does not support `train_on_prompt`. (template: {})",
            template.name
        )));
    }
    template.configure(&args.template_options)?;
    notices.extend(template.fix_tokenizer(tokenizer)?);
    Ok((template, notices))
}

/// Reads and prepares all rows, or takes them as an earlier call kept them. `kit` may be `None` where every dataset has `formatting: tokens`. `progress` is called
/// with the rows done and the rows in all.
///
/// # Errors
/// When a file is missing or broken, an argument does not fit, or no row is usable.
pub fn load(
    args: &DataArgs,
    kit: Option<(&Tokenizer, &Template)>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Dataset, DataError> {
    args.check()?;
    let infos = info::read(&args.dataset_dir, &args.dataset)?;
    let eval_infos = info::read(&args.dataset_dir, &args.eval_dataset)?;
    let place = cache::Place::of(args, [&infos, &eval_infos], kit)?;
    if let Some(place) = place.as_ref().filter(|_| !args.overwrite_cache)
        && let Some(mut dataset) = place.load()
    {
        let notice = format!("Encoded rows were taken from {}.", place.path().display());
        dataset.report.notices.push(notice);
        return Ok(dataset);
    }
    let mut dataset = prepare(args, &infos, &eval_infos, kit, progress)?;
    if let Some(place) = place
        && let Err(error) = place.store(&dataset)
    {
        let notice = format!("Encoded rows are not kept: {}: {error}", place.path().display());
        dataset.report.notices.push(notice);
    }
    Ok(dataset)
}

fn prepare(
    args: &DataArgs,
    infos: &[DatasetInfo],
    eval_infos: &[DatasetInfo],
    kit: Option<(&Tokenizer, &Template)>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Dataset, DataError> {
    let mut sampler = Sampler::new(args.seed);
    let mut report = Report::default();
    let train = read_all(args, infos, &mut sampler)?;
    let eval = read_all(args, eval_infos, &mut sampler)?;

    let train = merge(args, train)?;
    let mut sets: VecDeque<(String, Vec<Item>)> = VecDeque::new();
    if args.eval_on_each_dataset {
        sets.extend(args.eval_dataset.iter().cloned().zip(eval));
    } else if !eval.is_empty() {
        sets.push_back((String::new(), merge(args, eval)?));
    }
    let train = match HoldOut::of(args.val_size) {
        Some(size) => {
            let (kept, held) = order::split(train.len(), size, args.seed)?;
            sets.push_back((String::new(), pick(&train, &held)));
            pick(&train, &kept)
        }
        None => train,
    };

    let total = train.len() + sets.iter().map(|(_, items)| items.len()).sum::<usize>();
    let mut done = 0;
    let mut advance = |rows: usize| {
        done += rows as u64;
        progress(done, total as u64);
    };
    let mut dataset = Dataset::default();
    if !args.dataset.is_empty() {
        dataset.train = tokenise::all(args, kit, train, &mut report, &mut advance)?;
    }
    for (name, items) in sets {
        dataset.eval.push((name, tokenise::all(args, kit, items, &mut report, &mut advance)?));
    }
    dataset.report = report;
    Ok(dataset)
}

fn read_all(
    args: &DataArgs,
    infos: &[DatasetInfo],
    sampler: &mut Sampler,
) -> Result<Vec<Vec<Item>>, DataError> {
    infos.iter().map(|info| rows::read(args, info, sampler)).collect()
}

fn merge(args: &DataArgs, mut datasets: Vec<Vec<Item>>) -> Result<Vec<Item>, DataError> {
    if datasets.len() < 2 || args.mix_strategy == Mix::Concat {
        return Ok(datasets.drain(..).flatten().collect());
    }
    let lengths: Vec<usize> = datasets.iter().map(Vec::len).collect();
    let mixed =
        order::mix(&lengths, args.mix_strategy, args.interleave_probs.as_deref(), args.seed)?;
    Ok(mixed.into_iter().map(|(dataset, row)| datasets[dataset][row].clone()).collect())
}

fn pick(items: &[Item], rows: &[usize]) -> Vec<Item> {
    rows.iter().map(|row| items[*row].clone()).collect()
}
