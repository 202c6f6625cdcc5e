//! The update rule of a run, and what it remembers of each parameter.
//!
//! A rule says of each parameter which tensors it remembers ([`Rule::layout`]); they start as
//! zeros, and a checkpoint saves and loads them by that list alone, so that a new rule is one file
//! and one line in each `match` here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::model::entries::Entries;
use crate::model::store::{Grads, Param, ParamId, Params};
use crate::optim::adamw::AdamW;
use crate::optim::galore::GaLore;
use crate::optim::lion::{self, Lion};
use crate::optim::{adafactor, eight_bit, sparse_adam};

/// How gradients become updates.
#[derive(Clone, Debug)]
pub enum Rule {
    /// AdamW in f32.
    AdamW(AdamW),
    /// AdamW with moments of 8 bits.
    AdamW8(AdamW),
    /// Adafactor with the run's learning rate.
    Adafactor,
    /// The sign of a momentum.
    Lion(Lion),
    /// The same with a momentum of 8 bits.
    Lion8(Lion),
    /// Gradient descent, which remembers nothing.
    Sgd,
    /// Another rule's memory, kept of projections.
    GaLore(Box<GaLore>),
    /// Adam on some entries of each parameter.
    SparseAdam(AdamW),
}

/// Step size of one parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
}

/// One tensor that a rule remembers of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Its name; in a checkpoint it is `name.parameter`.
    pub name: &'static str,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// f32, or bytes that stand for 8-bit codes.
    pub dtype: DType,
}

impl Spec {
    /// A tensor of f32.
    #[must_use]
    pub fn f32(name: &'static str, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), dtype: DType::F32 }
    }

    /// A tensor of bytes.
    #[must_use]
    pub fn bytes(name: &'static str, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec(), dtype: DType::U8 }
    }
}

/// What a rule remembers of one parameter, and how many updates made it.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// Updates so far.
    pub step: u64,
    tensors: Vec<(&'static str, Tensor)>,
}

/// What a rule remembers of all parameters that it has moved.
pub type State = BTreeMap<ParamId, Slots>;

impl Slots {
    /// Zeros of this layout.
    ///
    /// # Errors
    /// When the device cannot allocate them.
    pub fn zeros(layout: &[Spec], device: &Device) -> Result<Self> {
        let zero = |s: &Spec| Ok((s.name, Tensor::zeros(s.shape.as_slice(), s.dtype, device)?));
        Ok(Self { step: 0, tensors: layout.iter().map(zero).collect::<Result<_>>()? })
    }

    /// What a checkpoint held.
    #[must_use]
    pub fn loaded(step: u64, tensors: Vec<(&'static str, Tensor)>) -> Self {
        Self { step, tensors }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// When the layout has none of this name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.tensors.iter().find(|(n, _)| *n == name);
        found.map(|(_, t)| t).ok_or_else(|| Error::Internal(format!("no optimiser slot `{name}`")))
    }

    /// Puts another tensor in the place of `name`.
    ///
    /// # Errors
    /// When the layout has none of this name.
    pub fn set(&mut self, name: &str, tensor: Tensor) -> Result<()> {
        let found = self.tensors.iter_mut().find(|(n, _)| *n == name);
        let slot = found.ok_or_else(|| Error::Internal(format!("no optimiser slot `{name}`")))?;
        slot.1 = tensor;
        Ok(())
    }

    /// Names and tensors, in the layout's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (*name, tensor))
    }
}

impl Rule {
    /// The tensors that the rule remembers of `param`, of which all or some `entries` are trained.
    #[must_use]
    pub fn layout(&self, param: &Param, entries: Option<&Entries>) -> Vec<Spec> {
        match self {
            Self::SparseAdam(_) => AdamW::layout(&[entries.map_or(0, Entries::len)]),
            Self::GaLore(galore) => galore.layout(param),
            _ => self.dense_layout(param.value.dims()),
        }
    }

    /// What a rule that looks at nothing but shapes remembers of a tensor.
    pub(super) fn dense_layout(&self, shape: &[usize]) -> Vec<Spec> {
        match self {
            Self::AdamW(_) | Self::SparseAdam(_) => AdamW::layout(shape),
            Self::AdamW8(_) => eight_bit::adamw_layout(shape),
            Self::Adafactor => adafactor::layout(shape),
            Self::Lion(_) => Lion::layout(shape),
            Self::Lion8(_) => eight_bit::lion_layout(shape),
            Self::Sgd | Self::GaLore(_) => Vec::new(),
        }
    }

    /// Moves every trained parameter that has a gradient, which is first multiplied by `clip`.
    ///
    /// # Errors
    /// When a tensor cannot be read or written.
    pub fn step(
        &self,
        params: &Params,
        grads: &Grads,
        state: &mut State,
        clip: f32,
        rate: impl Fn(ParamId) -> Rate,
    ) -> Result<()> {
        for id in params.trained() {
            let Some(grad) = grads.get(id) else { continue };
            let param = params.get(id);
            let slots = match state.entry(id) {
                Entry::Occupied(e) => e.into_mut(),
                Entry::Vacant(e) => e.insert(Slots::zeros(
                    &self.layout(param, grads.entries(id)),
                    param.value.device(),
                )?),
            };
            slots.step += 1;
            self.update(param, grads.entries(id), grad, slots, clip, rate(id))?;
        }
        Ok(())
    }

    fn update(
        &self,
        param: &Param,
        entries: Option<&Entries>,
        grad: &Tensor,
        slots: &mut Slots,
        clip: f32,
        rate: Rate,
    ) -> Result<()> {
        match (self, entries) {
            (Self::SparseAdam(adam), Some(entries)) => {
                sparse_adam::step(adam, &param.value, entries, grad, slots, clip, rate.lr)
            }
            (Self::GaLore(galore), None) => galore.update(param, grad, slots, clip, rate),
            (_, None) => self.dense_update(&param.value, grad, slots, clip, rate),
            _ => Err(Error::Internal(format!("this rule cannot move a part of {}", param.name))),
        }
    }

    /// One update of `value` from `grad * clip` by a rule that looks at nothing but shapes.
    pub(super) fn dense_update(
        &self,
        value: &Tensor,
        grad: &Tensor,
        slots: &mut Slots,
        clip: f32,
        rate: Rate,
    ) -> Result<()> {
        match self {
            Self::AdamW(adamw) => adamw.update(value, grad, slots, clip, rate),
            Self::AdamW8(adamw) => eight_bit::adamw_step(adamw, value, grad, slots, clip, rate),
            Self::Adafactor => adafactor::step(value, grad, slots, clip, rate),
            Self::Lion(lion) => lion.update(value, grad, slots, clip, rate),
            Self::Lion8(lion) => eight_bit::lion_step(lion, value, grad, slots, clip, rate),
            Self::Sgd => lion::sgd(value, grad, clip, rate),
            Self::GaLore(_) | Self::SparseAdam(_) => {
                Err(Error::Internal("this rule moves parameters, not bare tensors".into()))
            }
        }
    }
}
