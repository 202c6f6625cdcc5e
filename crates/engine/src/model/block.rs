//! One decoder layer, forward and backward.
//!
//! Pre-norm residual block: `x2 = x + attn(norm(x))`, `y = x2 + mlp(norm(x2))`; Gemma norms the
//! branches once more before they are added. `Saved` holds what backward reads and nothing else:
//! the normed inputs and the gated product are cheap to make again and are not kept.
//! Shape letters as in `ops`.

use candle_core::{DType, Tensor};

use super::linear::{self, Linear, Mode, add};
use super::store::{Grads, ParamId, Params};
use crate::error::Result;
use crate::ops::activation::Gate;
use crate::ops::attention::{self, Attention};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::{Angles, Direction};
use crate::ops::rounded;

mod norms;

/// Queries, keys and values: three matrices, or one (Phi-3).
#[derive(Clone, Debug)]
pub enum Qkv {
    /// q_proj, k_proj, v_proj.
    Split([Linear; 3]),
    /// qkv_proj.
    Fused(Linear),
}

/// The MLP's inputs: two matrices, or one (Phi-3).
#[derive(Clone, Debug)]
pub enum GateUp {
    /// gate_proj, up_proj.
    Split([Linear; 2]),
    /// gate_up_proj.
    Fused(Linear),
}

impl Qkv {
    fn linears(&self) -> &[Linear] {
        match self {
            Self::Split(three) => three,
            Self::Fused(one) => std::slice::from_ref(one),
        }
    }
}

impl GateUp {
    fn linears(&self) -> &[Linear] {
        match self {
            Self::Split(two) => two,
            Self::Fused(one) => std::slice::from_ref(one),
        }
    }
}

/// A layer's parameters and constants.
#[derive(Clone, Debug)]
pub struct Block {
    /// Before attention.
    pub input_norm: ParamId,
    /// Before the MLP.
    pub mlp_norm: ParamId,
    /// After attention and after the MLP (Gemma).
    pub post_norms: Option<[ParamId; 2]>,
    /// Per-head norms of q and k (Qwen3, Gemma 3).
    pub qk_norms: Option<[ParamId; 2]>,
    /// Queries, keys, values.
    pub qkv: Qkv,
    /// Attention's output matrix.
    pub o: Linear,
    /// Gate and up.
    pub gate_up: GateUp,
    /// down_proj.
    pub down: Linear,
    /// The attention's constants.
    pub attention: Attention,
    /// The norms' constants.
    pub norm: RmsNorm,
    /// The gate's function.
    pub gate: Gate,
    /// Which of the decoder's rotary tables this layer uses.
    pub rope: usize,
}

/// What surrounds a layer in one pass.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// The model's parameters.
    pub params: &'a Params,
    /// Where the rows begin, and the end.
    pub offsets: &'a [usize],
    /// The tokens' rotary angles, one table a kind of layer.
    pub angles: &'a [Angles],
    /// Dropout.
    pub mode: Mode,
}

/// What backward reads of a layer.
pub struct Saved {
    x_td: Tensor,
    rstd_in: Tensor,
    /// q and k before their norms, with rstd.
    qk_raw: Option<[(Tensor, Tensor); 2]>,
    /// After norm and rotation.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention: attention::Saved,
    /// Before the post-norm, with rstd.
    attn_raw: Option<(Tensor, Tensor)>,
    x2_td: Tensor,
    rstd_mlp: Tensor,
    gate_ti: Tensor,
    up_ti: Tensor,
    mlp_raw: Option<(Tensor, Tensor)>,
    qkv_lora: Vec<linear::Saved>,
    o_lora: linear::Saved,
    gate_up_lora: Vec<linear::Saved>,
    down_lora: linear::Saved,
}

/// Keys and values of a pass, rotated: what a generation cache stores.
pub struct KeysValues {
    /// [t, g*k].
    pub k: Tensor,
    /// [t, g*k].
    pub v: Tensor,
}

impl Block {
    /// The layer's output and what backward needs.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, pass: Pass<'_>, x_td: &Tensor) -> Result<(Tensor, Saved)> {
        let mut saved = self.up_to_gate(pass, x_td)?;
        let a_ti = self.gate.forward(&saved.gate_ti, &saved.up_ti)?;
        let (branch, down_lora) = self.down.forward(pass.params, &a_ti, pass.mode)?;
        let (branch, mlp_raw) = self.post_norm(pass.params, 1, branch)?;
        let y_td = add(branch, &saved.x2_td)?;
        (saved.down_lora, saved.mlp_raw) = (down_lora, mlp_raw);
        Ok((y_td, saved))
    }

    /// What backward needs, once more. The last product is left out where nothing of it is kept.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn again(&self, pass: Pass<'_>, x_td: &Tensor) -> Result<Saved> {
        if self.down.lora.is_some() || self.post_norms.is_some() {
            return Ok(self.forward(pass, x_td)?.1);
        }
        self.up_to_gate(pass, x_td)
    }

    /// The layer up to the MLP's two inputs.
    fn up_to_gate(&self, pass: Pass<'_>, x_td: &Tensor) -> Result<Saved> {
        let p = pass.params;
        let (h, rstd_in) = self.norm.forward(x_td, p.value(self.input_norm))?;
        let (q, k, v, qkv_lora) = self.project(pass, &h)?;
        drop(h);
        let (q, k, qk_raw) = self.norm_qk(p, q, k)?;
        let angles = &pass.angles[self.rope];
        let q = angles.apply(q, self.attention.head_dim, Direction::Forward)?;
        let k = angles.apply(k, self.attention.head_dim, Direction::Forward)?;
        let attention = self.attention.forward(p.precision, &q, &k, &v, pass.offsets)?;
        let (branch, o_lora) = self.o.forward(p, &attention.o_thk, pass.mode)?;
        let (branch, attn_raw) = self.post_norm(p, 0, branch)?;
        let x2_td = add(branch, x_td)?;
        let (h, rstd_mlp) = self.norm.forward(&x2_td, p.value(self.mlp_norm))?;
        let (gate_ti, up_ti, gate_up_lora) = self.gate_up(pass, &h)?;
        let x_td = x_td.clone();
        let (mlp_raw, down_lora) = (None, linear::Saved::default());
        Ok(Saved {
            x_td,
            rstd_in,
            qk_raw,
            q,
            k,
            v,
            attention,
            attn_raw,
            x2_td,
            rstd_mlp,
            gate_ti,
            up_ti,
            mlp_raw,
            qkv_lora,
            o_lora,
            gate_up_lora,
            down_lora,
        })
    }

    /// Adds the layer's parameter gradients; returns the input's, if `want_dx`. `dy_td` and the
    /// saved tensors are used up.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn backward(
        &self,
        pass: Pass<'_>,
        grads: &mut Grads,
        saved: Saved,
        dy_td: Tensor,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let p = pass.params;
        let Saved { x_td, rstd_in, qk_raw, q, k, v, attention, attn_raw, x2_td, rstd_mlp, .. } =
            saved;
        // MLP branch.
        let d_branch = self.post_norm_backward(p, grads, 1, &dy_td, saved.mlp_raw.as_ref())?;
        let d_branch = d_branch.as_ref().unwrap_or(&dy_td);
        let gated = (saved.gate_ti, saved.up_ti);
        let (dgate, dup) = self.down_backward(pass, grads, gated, &saved.down_lora, d_branch)?;
        let h = self.normed(p, grads, self.gate_up.linears(), &x2_td, self.mlp_norm)?;
        let dh = self.gate_up_backward(pass, grads, h.as_ref(), &saved.gate_up_lora, dgate, dup)?;
        drop(h);
        let dx2 = self.norm_backward(p, grads, self.mlp_norm, dy_td, &dh, &x2_td, &rstd_mlp)?;
        drop((dh, x2_td));
        if !want_dx && !self.attention_trained(grads) {
            return Ok(None);
        }
        // Attention branch.
        let d_branch = self.post_norm_backward(p, grads, 0, &dx2, attn_raw.as_ref())?;
        let d_branch = d_branch.as_ref().unwrap_or(&dx2);
        let o_in = Some(&attention.o_thk);
        let d_o =
            self.o.backward(p, grads, o_in, &saved.o_lora, d_branch, None, true, pass.mode)?;
        let (d_o, at) = (required(d_o)?, pass.offsets);
        let (dq, dk, dv) =
            self.attention.backward(p.precision, &d_o, &q, &k, &v, &attention, at)?;
        drop((q, k, v, attention));
        let angles = &pass.angles[self.rope];
        let dq = angles.apply(dq, self.attention.head_dim, Direction::Backward)?;
        let dk = angles.apply(dk, self.attention.head_dim, Direction::Backward)?;
        let (dq, dk) = self.norm_qk_backward(p, grads, dq, dk, qk_raw.as_ref())?;
        let want_dh = want_dx || grads.wants(self.input_norm);
        let h = self.normed(p, grads, self.qkv.linears(), &x_td, self.input_norm)?;
        let (h, dqkv) = (h.as_ref(), [dq, dk, dv]);
        let dh = self.project_backward(pass, grads, h, &saved.qkv_lora, dqkv, want_dh)?;
        let Some(dh) = dh else { return Ok(None) };
        let dx = self.norm_backward(p, grads, self.input_norm, dx2, &dh, &x_td, &rstd_in)?;
        Ok(want_dx.then_some(dx))
    }

    /// Rotated queries, keys and values of new tokens: the part of a pass that a generation cache
    /// needs before attention.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn queries(&self, pass: Pass<'_>, x_td: &Tensor) -> Result<(Tensor, KeysValues)> {
        let (h, _) = self.norm.forward(x_td, pass.params.value(self.input_norm))?;
        let (q, k, v, _) = self.project(pass, &h)?;
        let (q, k, _) = self.norm_qk(pass.params, q, k)?;
        let angles = &pass.angles[self.rope];
        let q = angles.apply(q, self.attention.head_dim, Direction::Forward)?;
        let k = angles.apply(k, self.attention.head_dim, Direction::Forward)?;
        Ok((q, KeysValues { k, v }))
    }

    /// The rest of a pass, from attention's output on.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn finish(&self, pass: Pass<'_>, x_td: &Tensor, o_thk: &Tensor) -> Result<Tensor> {
        let p = pass.params;
        let (branch, _) = self.o.forward(p, o_thk, pass.mode)?;
        let x2 = add(self.post_norm(p, 0, branch)?.0, x_td)?;
        let (h, _) = self.norm.forward(&x2, p.value(self.mlp_norm))?;
        let (gate, up, _) = self.gate_up(pass, &h)?;
        let (branch, _) = self.down.forward(p, &self.gate.forward(&gate, &up)?, pass.mode)?;
        add(self.post_norm(p, 1, branch)?.0, &x2)
    }

    /// A normed input once more, where one of `linears` reads it on the way back.
    fn normed(
        &self,
        p: &Params,
        grads: &Grads,
        linears: &[Linear],
        x_td: &Tensor,
        norm: ParamId,
    ) -> Result<Option<Tensor>> {
        if !linears.iter().any(|linear| linear.reads_input(grads)) {
            return Ok(None);
        }
        Ok(Some(self.norm.forward(x_td, p.value(norm))?.0))
    }

    /// Whether a parameter of the attention branch wants a gradient.
    fn attention_trained(&self, grads: &Grads) -> bool {
        let qkv = self.qkv.linears();
        let norms = [Some(self.input_norm), self.post_norms.map(|norms| norms[0])];
        qkv.iter().chain([&self.o]).any(|linear| linear.trained(grads))
            || norms.into_iter().flatten().any(|id| grads.wants(id))
            || self.qk_norms.is_some_and(|norms| norms.iter().any(|id| grads.wants(*id)))
    }

    /// The linear layers with their module names (`q_proj`, ...), for adapters.
    pub fn linears_mut(&mut self) -> Vec<(&'static str, &mut Linear)> {
        let mut all = Vec::with_capacity(7);
        match &mut self.qkv {
            Qkv::Split(qkv) => all.extend(["q_proj", "k_proj", "v_proj"].into_iter().zip(qkv)),
            Qkv::Fused(qkv) => all.push(("qkv_proj", qkv)),
        }
        all.push(("o_proj", &mut self.o));
        match &mut self.gate_up {
            GateUp::Split(two) => all.extend(["gate_proj", "up_proj"].into_iter().zip(two)),
            GateUp::Fused(one) => all.push(("gate_up_proj", one)),
        }
        all.push(("down_proj", &mut self.down));
        all
    }

    fn project(
        &self,
        pass: Pass<'_>,
        h: &Tensor,
    ) -> Result<(Tensor, Tensor, Tensor, Vec<linear::Saved>)> {
        let kv = self.attention.kv_heads * self.attention.head_dim;
        match &self.qkv {
            Qkv::Split([q, k, v]) => {
                let (q, a) = q.forward(pass.params, h, pass.mode)?;
                let (k, b) = k.forward(pass.params, h, pass.mode)?;
                let (v, c) = v.forward(pass.params, h, pass.mode)?;
                Ok((q, k, v, vec![a, b, c]))
            }
            Qkv::Fused(qkv) => {
                let (y, saved) = qkv.forward(pass.params, h, pass.mode)?;
                let q_width = self.attention.heads * self.attention.head_dim;
                let part = |from, width| columns(&y, from, width);
                Ok((part(0, q_width)?, part(q_width, kv)?, part(q_width + kv, kv)?, vec![saved]))
            }
        }
    }

    fn project_backward(
        &self,
        pass: Pass<'_>,
        grads: &mut Grads,
        h: Option<&Tensor>,
        saved: &[linear::Saved],
        dqkv: [Tensor; 3],
        want_dh: bool,
    ) -> Result<Option<Tensor>> {
        let (p, mode) = (pass.params, pass.mode);
        match &self.qkv {
            Qkv::Split(layers) => {
                let mut dh = None;
                for ((layer, saved), dy) in layers.iter().zip(saved).zip(&dqkv) {
                    dh = layer.backward(p, grads, h, saved, dy, dh, want_dh, mode)?;
                }
                Ok(dh)
            }
            Qkv::Fused(layer) => {
                let dy = Tensor::cat(&dqkv, 1)?;
                layer.backward(p, grads, h, &saved[0], &dy, None, want_dh, mode)
            }
        }
    }

    /// Whether the MLP keeps its inputs in bf16 ([`rounded`]) in a pass of `t` tokens; of many, where none are given.
    #[must_use]
    pub fn rounds(&self, params: &Params, t: Option<usize>) -> bool {
        let GateUp::Split([gate, up]) = &self.gate_up else { return false };
        let weight = params.value(gate.weight);
        let plain = [gate, up, &self.down].into_iter().all(|layer| layer.plain(params));
        let Ok((_, d)) = weight.dims2() else { return false };
        plain && rounded::can_make(params.precision, weight, t, d)
    }

    fn gate_up(&self, pass: Pass<'_>, h: &Tensor) -> Result<(Tensor, Tensor, Vec<linear::Saved>)> {
        match &self.gate_up {
            GateUp::Split([gate, up]) if self.rounds(pass.params, h.dim(0).ok()) => {
                let [gate, up] =
                    [gate, up].map(|layer| rounded::forward_to(h, pass.params.value(layer.weight)));
                Ok((gate?, up?, vec![linear::Saved::default(), linear::Saved::default()]))
            }
            GateUp::Split([gate, up]) => {
                let (gate, a) = gate.forward(pass.params, h, pass.mode)?;
                let (up, b) = up.forward(pass.params, h, pass.mode)?;
                Ok((gate, up, vec![a, b]))
            }
            GateUp::Fused(layer) => {
                let (y, saved) = layer.forward(pass.params, h, pass.mode)?;
                let i = y.dim(1)? / 2;
                Ok((columns(&y, 0, i)?, columns(&y, i, i)?, vec![saved]))
            }
        }
    }

    /// Adds the gradients of down_proj, whose input is made again; returns those of gate and up.
    fn down_backward(
        &self,
        pass: Pass<'_>,
        grads: &mut Grads,
        (gate_ti, up_ti): (Tensor, Tensor),
        saved: &linear::Saved,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (p, mode, down) = (pass.params, pass.mode, &self.down);
        if !down.in_halves() {
            let a = self.gate.forward(&gate_ti, &up_ti)?;
            let da = down.backward(p, grads, Some(&a), saved, dy, None, true, mode)?;
            return self.gate.backward(gate_ti, up_ti, &required(da)?);
        }
        let (da, du) = match gate_ti.dtype() {
            DType::BF16 => (Some(rounded::input_grad_to(dy, p.value(down.weight))?), None),
            _ => down.input_backward(p, dy, None, true, mode)?,
        };
        let da = required(da)?;
        if !down.reads_input(grads) {
            let d = self.gate.backward(gate_ti, up_ti, &da)?;
            down.param_backward(p, grads, None, saved, dy, du.as_ref(), mode)?;
            return Ok(d);
        }
        let (dgate, dup, a) = self.gate.backward_and_forward(gate_ti, up_ti, da)?;
        down.param_backward(p, grads, Some(&a), saved, dy, du.as_ref(), mode)?;
        Ok((dgate, dup))
    }

    fn gate_up_backward(
        &self,
        pass: Pass<'_>,
        grads: &mut Grads,
        h: Option<&Tensor>,
        saved: &[linear::Saved],
        dgate: Tensor,
        dup: Tensor,
    ) -> Result<Tensor> {
        let (p, mode) = (pass.params, pass.mode);
        let dh = match &self.gate_up {
            GateUp::Split([gate, up]) => {
                let dh = gate.backward(p, grads, h, &saved[0], &dgate, None, true, mode)?;
                up.backward(p, grads, h, &saved[1], &dup, dh, true, mode)?
            }
            GateUp::Fused(layer) => {
                let dy = Tensor::cat(&[dgate, dup], 1)?;
                layer.backward(p, grads, h, &saved[0], &dy, None, true, mode)?
            }
        };
        required(dh)
    }
}

fn columns(y: &Tensor, from: usize, width: usize) -> Result<Tensor> {
    Ok(y.narrow(1, from, width)?.contiguous()?)
}

fn required(tensor: Option<Tensor>) -> Result<Tensor> {
    tensor.ok_or_else(|| crate::error::Error::Internal("a layer gave no input gradient".into()))
}
