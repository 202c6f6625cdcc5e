//! A Hugging Face folder read for a quantised base: linear layers quantised on the way, some rows at a
//! time.

use std::path::Path;

use rayon::prelude::*;
use safetensors::tensor::Dtype as StDtype;

use super::index::{Entry, Index};
use super::{Data, Dtype, WeightData, read, read_error};
use crate::error::{Error, Result};
use crate::model::config::ModelConfig;
use crate::model::params::{ParamSpec, expected_params};
use crate::model::quantise::{Held, Plan, Quantised, Target};
use crate::quant::{Format, Packed};

/// All parameters of `config` from a folder, linear layers as `plan.target`; an embedding or head in
/// halves stays in halves.
///
/// # Errors
/// As [`super::read_folder`]; when a weight is not finite.
pub fn read_folder_quantised(dir: &Path, config: &ModelConfig, plan: &Plan) -> Result<Quantised> {
    let index = Index::open_folder(dir)?;
    let specs = expected_params(config);
    let entries = specs.iter().map(|spec| index.find(spec, dir)).collect::<Result<Vec<_>>>()?;
    let unused = index.unused(&specs, config.tie_word_embeddings);
    let read = |(spec, entry): (&ParamSpec, &&Entry)| {
        let (held, why) = held(&index, spec, entry, plan)?;
        Ok((spec.name.clone(), held, why))
    };
    let held: Vec<_> = specs.par_iter().zip(&entries).map(read).collect::<Result<_>>()?;
    Ok(Quantised::from_held(held, unused))
}

fn held(
    index: &Index,
    spec: &ParamSpec,
    entry: &Entry,
    plan: &Plan,
) -> Result<(Held, Option<String>)> {
    let (path, file) = &index.files[entry.file];
    let data = |entry: &Entry| {
        read::tensor(file, entry, Dtype::F32).map_err(|e| read_error(path, &spec.name, entry, e))
    };
    let plain = || {
        let shape = entry.shape.clone();
        Ok::<_, Error>(Held::Plain(WeightData { shape, data: data(entry)? }))
    };
    let half = match entry.dtype {
        StDtype::BF16 => Some(Format::Bf16),
        StDtype::F16 => Some(Format::F16),
        _ => None,
    };
    let &[rows, cols] = entry.shape.as_slice() else {
        return Ok((plain()?, None));
    };
    let asked = match plan.target {
        Target::Half(half) => Some(half.into()),
        _ => None,
    };
    match (plan.packs(spec), plan.converts(spec) && (asked.is_none() || asked != half), half) {
        (true, true, _) if plan.divides(cols) => {
            let row = entry.len / rows.max(1);
            let name = (path.as_path(), spec.name.as_str());
            let packed = plan.pack(name, (rows, cols), 1, |from, count| {
                let offset = entry.offset + (from * row) as u64;
                let shape = vec![count, cols];
                let part = Entry { shape, offset, len: count * row, ..*entry };
                match data(&part)? {
                    Data::F32(values) => Ok(values),
                    Data::Bf16(values) => Ok(values.into_iter().map(f32::from).collect()),
                }
            })?;
            Ok((Held::Packed(packed), None))
        }
        (true, true, _) => {
            Ok((plain()?, Some(format!("rows of {cols} numbers are no whole number of blocks"))))
        }
        (true, _, Some(format)) => {
            let bytes = read::bytes(file, entry)
                .map_err(|e| read_error(path, &spec.name, entry, read::Failure::Io(e)))?;
            Ok((Held::Packed(Packed::new(format, rows, cols, bytes)?), None))
        }
        _ => Ok((plain()?, None)),
    }
}
