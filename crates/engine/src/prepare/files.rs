//! A model's files, read while the tokenizer and the rows are: neither side needs the other.

use std::path::Path;

use run::config::Config;

use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::gguf::Gguf;
use crate::model::hub::ModelLocation;
use crate::model::quantise::{Plan, Quantised, Target};
use crate::model::weights::{Dtype, Loaded, read_folder, read_folder_quantised};

/// What a model's files hold.
pub(super) enum Files {
    /// Every parameter in f32.
    Whole(Loaded),
    /// Linear layers as a plan has them.
    Packed(Quantised),
}

/// What a fresh run of `config` will most likely make its model of; `None` where there is a checkpoint to go on
/// from, nothing to read, or a device to be asked first.
pub(super) fn ahead(
    config: &Config,
    location: &ModelLocation,
    model: &ModelConfig,
    resume: Option<&Path>,
) -> Option<Result<Files>> {
    if resume.is_some() || config.train_from_scratch {
        return None;
    }
    match super::model::plan(config, model, None) {
        Ok(None) => Some(whole(location, model).map(Files::Whole)),
        Ok(Some(Plan { target: Target::Half(_), .. }))
            if cfg!(feature = "cuda") && !config.use_cpu =>
        {
            None
        }
        Ok(Some(plan)) => Some(packed(location, model, &plan).map(Files::Packed)),
        Err(error) => Some(Err(error)),
    }
}

/// Every parameter in f32.
pub(super) fn whole(location: &ModelLocation, model: &ModelConfig) -> Result<Loaded> {
    match location {
        ModelLocation::Folder(dir) => read_folder(dir, model, Dtype::F32),
        ModelLocation::Gguf(file) => Gguf::open(file)?.read(model, Dtype::F32),
    }
}

/// Linear layers as `plan` has them.
pub(super) fn packed(
    location: &ModelLocation,
    model: &ModelConfig,
    plan: &Plan,
) -> Result<Quantised> {
    match location {
        ModelLocation::Folder(dir) => read_folder_quantised(dir, model, plan),
        ModelLocation::Gguf(file) => Gguf::open(file)?.read_quantised(model, plan),
    }
}
