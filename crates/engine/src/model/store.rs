//! The model's parameters and their gradients, in a fixed order.
//!
//! Order is part of determinism: sums over parameters (the gradient norm) and files follow it. A
//! gradient buffer exists only for a trained parameter, from its first use in a step on ([`Grads::begin`]).
//! Where only some entries of a parameter are trained, the buffer lives as long as one layer's backward pass:
//! its entries are taken out and added up, and it goes.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::entries::Entries;
use crate::error::{Error, Result};
use crate::ops::matmul::{Into, Precision};
use crate::ops::matrix::Matrix;
use crate::quant::Packed;
use crate::tensor::{on_host, unwritten, update, zeros};

/// A parameter's place in [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// What a parameter is, as far as the optimiser cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The token embedding or an untied head.
    Embedding,
    /// A linear layer's matrix.
    Matrix,
    /// A norm's weight: never decayed.
    Norm,
    /// A bias: never decayed.
    Bias,
    /// A LoRA matrix.
    Adapter,
}

impl Role {
    /// Whether weight decay applies (transformers' `get_decay_parameter_names`).
    #[must_use]
    pub fn decays(self) -> bool {
        !matches!(self, Self::Norm | Self::Bias)
    }
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// Hugging Face's name, or PEFT's for an adapter.
    pub name: String,
    /// Its values, f32; none (shape [0]) where `packed` has them.
    pub value: Tensor,
    /// Its values where they are quantised: it is frozen then.
    pub packed: Option<Arc<Packed>>,
    /// What it is.
    pub role: Role,
    /// Whether the optimiser moves it.
    pub trainable: bool,
}

/// All parameters in order.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// What products with them round their operands to.
    pub precision: Precision,
    list: Vec<Param>,
}

impl Params {
    /// Appends a parameter.
    pub fn push(&mut self, name: String, value: Tensor, role: Role) -> ParamId {
        self.list.push(Param { name, value, packed: None, role, trainable: false });
        ParamId(self.list.len() - 1)
    }

    /// Appends a quantised parameter.
    ///
    /// # Errors
    /// Never, for a CPU.
    pub fn push_packed(
        &mut self,
        name: String,
        packed: impl std::convert::Into<Arc<Packed>>,
        role: Role,
    ) -> Result<ParamId> {
        let value = zeros(0, &Device::Cpu)?;
        let packed = Some(packed.into());
        self.list.push(Param { name, value, packed, role, trainable: false });
        Ok(ParamId(self.list.len() - 1))
    }

    /// The matrix `id`, plain or quantised.
    #[must_use]
    pub fn matrix(&self, id: ParamId) -> &dyn Matrix {
        let param = &self.list[id.0];
        match &param.packed {
            Some(packed) => packed.as_ref(),
            None => &param.value,
        }
    }

    /// Whether some parameter is quantised.
    #[must_use]
    pub fn quantised(&self) -> bool {
        self.list.iter().any(|p| p.packed.is_some())
    }

    /// The parameter `id`.
    #[must_use]
    pub fn get(&self, id: ParamId) -> &Param {
        &self.list[id.0]
    }

    /// The values of `id`.
    #[must_use]
    pub fn value(&self, id: ParamId) -> &Tensor {
        &self.list[id.0].value
    }

    /// Whether `id` is trained.
    #[must_use]
    pub fn trainable(&self, id: ParamId) -> bool {
        self.list[id.0].trainable
    }

    /// Decides for each parameter whether it is trained; a quantised one never is.
    pub fn set_trainable(&mut self, mut decide: impl FnMut(&Param) -> bool) {
        for param in &mut self.list {
            param.trainable = param.packed.is_none() && decide(param);
        }
    }

    /// The parameter called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<ParamId> {
        let at = self.list.iter().position(|p| p.name == name);
        at.map(ParamId).ok_or_else(|| Error::Internal(format!("no parameter `{name}`")))
    }

    /// Ids and parameters in order.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Param)> {
        self.list.iter().enumerate().map(|(i, p)| (ParamId(i), p))
    }

    /// Ids of the trained parameters, in order.
    #[must_use]
    pub fn trained(&self) -> Vec<ParamId> {
        self.iter().filter(|(_, p)| p.trainable).map(|(id, _)| id).collect()
    }

    /// (trained, all) element counts.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let count = |p: &Param| {
            p.packed.as_ref().map_or(p.value.elem_count(), |packed| packed.elements()) as u64
        };
        let trained = self.list.iter().filter(|p| p.trainable).map(count).sum();
        (trained, self.list.iter().map(count).sum())
    }
}

impl From<Vec<Param>> for Params {
    fn from(list: Vec<Param>) -> Self {
        Self { precision: Precision::F32, list }
    }
}

/// Gradients of the trained parameters.
#[derive(Debug, Default)]
pub struct Grads {
    slots: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    wanted: bool,
    tensor: Option<Tensor>,
    filled: bool,
    part: Option<Part>,
}

impl Slot {
    /// Its buffer, allocated where it has none; what is in it is then anything.
    fn buffer(&mut self, like: &Tensor) -> Result<&mut Tensor> {
        match &mut self.tensor {
            Some(tensor) => Ok(tensor),
            none => {
                #[expect(unsafe_code, reason = "memory that has not been written yet")]
                // SAFETY: `filled` says whether it has been; `Grads::slot` tells who gets it to overwrite it, and
                // `Grads::get` hands out none that is not filled.
                let tensor = unsafe { unwritten(like) }?;
                Ok(none.insert(tensor))
            }
        }
    }
}

/// The gradient of some entries of a parameter.
#[derive(Debug)]
struct Part {
    entries: Arc<Entries>,
    values: Option<Tensor>,
}

impl Grads {
    /// No gradients yet, for the parameters trained in `params`.
    #[must_use]
    pub fn new(params: &Params) -> Self {
        let slot = |p: &Param| Slot { wanted: p.trainable, ..Slot::default() };
        Self { slots: params.list.iter().map(slot).collect() }
    }

    /// As [`Grads::new`], for some entries of each trained parameter.
    #[must_use]
    pub fn of_entries(params: &Params, mut entries: impl FnMut(&Param) -> Arc<Entries>) -> Self {
        let slot = |p: &Param| Slot {
            wanted: p.trainable,
            part: p.trainable.then(|| Part { entries: entries(p), values: None }),
            ..Slot::default()
        };
        Self { slots: params.list.iter().map(slot).collect() }
    }

    /// The entries of `id` that are trained; `None` where all are.
    #[must_use]
    pub fn entries(&self, id: ParamId) -> Option<&Entries> {
        self.slots[id.0].part.as_ref().map(|part| &*part.entries)
    }

    /// Takes the trained entries out of the buffers and frees these: after each layer's backward.
    ///
    /// # Errors
    /// When a tensor cannot be read or written.
    pub fn sift(&mut self) -> Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| slot.filled) {
            let Some(part) = &mut slot.part else { continue };
            if let Some(whole) = slot.tensor.take() {
                part.entries.gather_add(&mut part.values, &whole)?;
            }
            slot.filled = false;
        }
        Ok(())
    }

    /// Whether `id` wants a gradient.
    #[must_use]
    pub fn wants(&self, id: ParamId) -> bool {
        self.slots[id.0].wanted
    }

    /// Begins a step: every gradient is empty. The buffers of several passes lie side by side and stay until the
    /// step's end: they are allocated before the activations of the first pass, since afterwards they would lie in
    /// the gaps that these left. A single pass has no use for a buffer before backward reaches its layer, when the
    /// layers above have given back their activations: the memory of one serves the other.
    ///
    /// # Errors
    /// When a buffer cannot be allocated.
    pub fn begin(&mut self, params: &Params, passes: usize) -> Result<()> {
        for (slot, param) in self.slots.iter_mut().zip(&params.list) {
            slot.filled = false;
            match &mut slot.part {
                Some(part) => part.values = None,
                None if passes <= 1 => slot.tensor = None,
                None if slot.wanted => {
                    slot.buffer(&param.value)?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The buffer of `id` and how a product must be put into it; `None` where it is frozen. The
    /// caller fills it.
    ///
    /// # Errors
    /// When the buffer cannot be allocated.
    pub fn slot(&mut self, id: ParamId, like: &Tensor) -> Result<Option<(&mut Tensor, Into)>> {
        let slot = &mut self.slots[id.0];
        if !slot.wanted {
            return Ok(None);
        }
        let into = if slot.filled { Into::Add } else { Into::Overwrite };
        slot.filled = true;
        Ok(Some((slot.buffer(like)?, into)))
    }

    /// As [`Grads::slot`], for a caller that can only add: the buffer is zeroed when empty.
    ///
    /// # Errors
    /// When the buffer cannot be allocated or written.
    pub fn summed(&mut self, id: ParamId, like: &Tensor) -> Result<Option<&mut Tensor>> {
        match self.slot(id, like)? {
            None => Ok(None),
            Some((tensor, Into::Add)) => Ok(Some(tensor)),
            Some((tensor, Into::Overwrite)) => {
                if on_host(tensor) {
                    update(tensor, |t| t.fill(0.0))?;
                } else {
                    *tensor = tensor.zeros_like()?;
                }
                Ok(Some(tensor))
            }
        }
    }

    /// The gradient of `id`, where one has been computed since the last [`Grads::begin`]; of some
    /// entries, one value each.
    #[must_use]
    pub fn get(&self, id: ParamId) -> Option<&Tensor> {
        let slot = &self.slots[id.0];
        if let Some(part) = &slot.part {
            return part.values.as_ref();
        }
        if slot.filled { slot.tensor.as_ref() } else { None }
    }
}
