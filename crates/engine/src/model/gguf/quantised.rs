//! A GGUF file's tensors for a quantised base: blocks as they lie in the file, the rest quantised on
//! the way or unpacked.

use candle_core::quantized::GgmlDType;
use rayon::prelude::*;

use super::names::RowOrder;
use super::{Gguf, Place, dequant};
use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::model::params::{ParamSpec, expected_params};
use crate::model::quantise::{Held, Plan, Quantised};
use crate::model::weights::{Data, Dtype, WeightData};
use crate::quant::{Format, Packed};

impl Gguf {
    /// All parameters of the model, matrices quantised: those that are in blocks stay as they are,
    /// linear layers in floating point become `plan.target`.
    ///
    /// # Errors
    /// As [`Gguf::read`].
    pub fn read_quantised(&self, config: &ModelConfig, plan: &Plan) -> Result<Quantised> {
        let specs = expected_params(config);
        let places =
            specs.iter().map(|spec| self.place(config, spec)).collect::<Result<Vec<_>>>()?;
        let read = |(spec, place): (&ParamSpec, &Place)| {
            let (held, why) = self.held(spec, place, plan)?;
            Ok((spec.name.clone(), held, why))
        };
        let held: Vec<_> = specs.par_iter().zip(&places).map(read).collect::<Result<_>>()?;
        Ok(Quantised::from_held(held, self.unused(&places)))
    }

    /// Memory that [`Gguf::read_quantised`]'s weights will take.
    ///
    /// # Errors
    /// When a tensor is missing or of another shape than `config` says.
    pub fn quantised_bytes(&self, config: &ModelConfig, plan: &Plan) -> Result<u64> {
        let bytes = |spec: &ParamSpec| {
            let place = self.place(config, spec)?;
            let (n, dtype) = (place.rows * place.cols, place.dtype);
            let float = matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
            let made = float && plan.converts(spec);
            let bytes = match Format::of(dtype) {
                _ if !plan.packs(spec) => 4 * n,
                _ if made && plan.divides(place.cols) => (n as f64 * plan.bits() / 8.0) as usize,
                Some(_) if !made => n / dtype.block_size() * dtype.type_size(),
                _ => 4 * n,
            };
            Ok(bytes as u64)
        };
        expected_params(config).iter().map(bytes).sum()
    }

    fn held(&self, spec: &ParamSpec, place: &Place, plan: &Plan) -> Result<(Held, Option<String>)> {
        let (rows, cols) = (place.rows, place.cols);
        let float = matches!(place.dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let linear = plan.converts(spec);
        if !plan.packs(spec) {
            return Ok((Held::Plain(self.plain(spec, place)?), None));
        }
        if let Some(format) = Format::of(place.dtype).filter(|_| !(float && linear)) {
            let bytes = dequant::raw(&self.file, place).map_err(|e| self.failure(place, e))?;
            return Ok((Held::Packed(Packed::new(format, rows, cols, bytes)?), None));
        }
        if float && linear && plan.divides(cols) {
            let step = match place.order {
                RowOrder::Rope { head_dim } => head_dim,
                RowOrder::Same => 1,
            };
            let name = (self.path(), place.name.as_str());
            let packed = plan.pack(name, (rows, cols), step, |from, count| {
                let part = place.rows_of(from, count);
                match self.data(&part)? {
                    Data::F32(values) => Ok(values),
                    Data::Bf16(values) => Ok(values.into_iter().map(f32::from).collect()),
                }
            })?;
            return Ok((Held::Packed(packed), None));
        }
        let why = match float {
            true => format!("rows of {cols} numbers are no whole number of blocks"),
            false => format!("{:?} blocks are not computed with", place.dtype),
        };
        let why = (linear || !float).then_some(why);
        Ok((Held::Plain(self.plain(spec, place)?), why))
    }

    fn plain(&self, spec: &ParamSpec, place: &Place) -> Result<WeightData> {
        Ok(WeightData { shape: spec.shape.clone(), data: self.data(place)? })
    }

    fn data(&self, place: &Place) -> Result<Data> {
        dequant::tensor(&self.file, place, Dtype::F32).map_err(|e| self.failure(place, e))
    }
}

impl Place {
    /// Some of its rows.
    fn rows_of(&self, from: usize, count: usize) -> Self {
        let row = self.cols / self.dtype.block_size() * self.dtype.type_size();
        Self {
            name: self.name.clone(),
            offset: self.offset + (from * row) as u64,
            rows: count,
            ..*self
        }
    }
}
