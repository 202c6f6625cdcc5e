//! AdamW and Lion with moments of 8 bits: a quarter of their memory.
//!
//! Moments are stored in blocks of 256 as codes of the dynamic 8-bit data type, relative to the
//! block's largest magnitude; a step decodes them, updates in f32 and encodes them again. A
//! parameter of fewer than 4,096 entries keeps f32 moments. Layout, code and order of operations
//! are those of bitsandbytes 0.50 on a CPU. Source: Dettmers et al., "8-bit Optimizers via
//! Block-wise Quantization", 2022.

mod code;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::error::Result;
use crate::optim::adamw::AdamW;
use crate::optim::lion::Lion;
use crate::optim::rule::{Rate, Slots, Spec};
use crate::simd::CHUNK;
use crate::tensor::{update, update_of, view};

use code::{BLOCK, SIGNED, UNSIGNED};

/// Parameters with fewer entries keep f32 moments.
const SMALL: usize = 4096;

/// Codes and block maxima of the first and second moment.
const M: [&str; 2] = ["exp_avg_8bit", "exp_avg_absmax"];
const V: [&str; 2] = ["exp_avg_sq_8bit", "exp_avg_sq_absmax"];

fn small(shape: &[usize]) -> bool {
    shape.iter().product::<usize>() < SMALL
}

fn coded([codes, absmax]: [&'static str; 2], shape: &[usize]) -> [Spec; 2] {
    let blocks = shape.iter().product::<usize>().div_ceil(BLOCK);
    [Spec::bytes(codes, shape), Spec::f32(absmax, &[blocks])]
}

/// Both moments of AdamW.
#[must_use]
pub fn adamw_layout(shape: &[usize]) -> Vec<Spec> {
    if small(shape) {
        return AdamW::layout(shape);
    }
    coded(M, shape).into_iter().chain(coded(V, shape)).collect()
}

/// Lion's momentum.
#[must_use]
pub fn lion_layout(shape: &[usize]) -> Vec<Spec> {
    if small(shape) { Lion::layout(shape) } else { coded(M, shape).to_vec() }
}

/// One AdamW update of `param` from `grad * clip`; `slots.step` counts it already.
///
/// # Errors
/// When a tensor cannot be read or written.
pub fn adamw_step(
    adamw: &AdamW,
    param: &Tensor,
    grad: &Tensor,
    slots: &mut Slots,
    clip: f32,
    rate: Rate,
) -> Result<()> {
    if small(param.dims()) {
        return adamw.update(param, grad, slots, clip, rate);
    }
    let kernel = adamw.kernel(slots.step, clip, rate);
    let g = view(grad)?;
    let [m, m_max] = [slots.get(M[0])?, slots.get(M[1])?];
    let [v, v_max] = [slots.get(V[0])?, slots.get(V[1])?];
    let blocks = CHUNK / BLOCK;
    update(param, |p| {
        update_of(m, |m| {
            update(m_max, |m_max| {
                update_of(v, |v| {
                    update(v_max, |v_max| {
                        p.par_chunks_mut(CHUNK)
                            .zip(g.par_chunks(CHUNK))
                            .zip(m.par_chunks_mut(CHUNK).zip(m_max.par_chunks_mut(blocks)))
                            .zip(v.par_chunks_mut(CHUNK).zip(v_max.par_chunks_mut(blocks)))
                            .for_each(|(((p, g), (m, m_max)), (v, v_max))| {
                                let values = p.chunks_mut(BLOCK).zip(g.chunks(BLOCK));
                                let first = m.chunks_mut(BLOCK).zip(m_max);
                                let second = v.chunks_mut(BLOCK).zip(v_max);
                                for (((p, g), (m, m_max)), (v, v_max)) in
                                    values.zip(first).zip(second)
                                {
                                    let mut m_f32 = SIGNED.decoded(m, *m_max);
                                    let mut v_f32 = UNSIGNED.decoded(v, *v_max);
                                    let (m_now, v_now) =
                                        (&mut m_f32[..m.len()], &mut v_f32[..v.len()]);
                                    kernel.run(p, m_now, v_now, g);
                                    *m_max = SIGNED.encode(&m_f32[..m.len()], m);
                                    *v_max = UNSIGNED.encode(&v_f32[..v.len()], v);
                                }
                            });
                    })
                })
            })
        })
    })?????;
    Ok(())
}

/// One Lion update of `param` from `grad * clip`.
///
/// # Errors
/// When a tensor cannot be read or written.
pub fn lion_step(
    lion: &Lion,
    param: &Tensor,
    grad: &Tensor,
    slots: &mut Slots,
    clip: f32,
    rate: Rate,
) -> Result<()> {
    if small(param.dims()) {
        return lion.update(param, grad, slots, clip, rate);
    }
    let kernel = lion.kernel(clip, rate);
    let g = view(grad)?;
    let [m, m_max] = [slots.get(M[0])?, slots.get(M[1])?];
    update(param, |p| {
        update_of(m, |m| {
            update(m_max, |m_max| {
                p.par_chunks_mut(BLOCK)
                    .zip(g.par_chunks(BLOCK))
                    .zip(m.par_chunks_mut(BLOCK).zip(m_max))
                    .for_each(|((p, g), (m, m_max))| {
                        let mut m_f32 = SIGNED.decoded(m, *m_max);
                        for ((p, m), g) in p.iter_mut().zip(&mut m_f32).zip(g) {
                            (*p, *m) = kernel.one(*p, *m, *g);
                        }
                        *m_max = SIGNED.encode(&m_f32[..m.len()], m);
                    });
            })
        })
    })???;
    Ok(())
}
