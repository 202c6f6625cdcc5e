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
use crate::optim::sparse_adam;

/// How gradients become updates.
#[derive(Clone, Debug)]
pub enum Rule {
    /// AdamW in f32.
    AdamW(AdamW),
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
}

impl Spec {
    /// A tensor of f32.
    #[must_use]
    pub fn f32(name: &'static str, shape: &[usize]) -> Self {
        Self { name, shape: shape.to_vec() }
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
        let zero = |s: &Spec| Ok((s.name, Tensor::zeros(s.shape.as_slice(), DType::F32, device)?));
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
            Self::AdamW(_) => AdamW::layout(param.value.dims()),
            Self::SparseAdam(_) => AdamW::layout(&[entries.map_or(0, Entries::len)]),
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
            (Self::AdamW(adamw), None) => adamw.update(&param.value, grad, slots, clip, rate),
            (Self::SparseAdam(adam), Some(entries)) => {
                sparse_adam::step(adam, &param.value, entries, grad, slots, clip, rate.lr)
            }
            _ => Err(Error::Internal(format!("this rule cannot move a part of {}", param.name))),
        }
    }
}
