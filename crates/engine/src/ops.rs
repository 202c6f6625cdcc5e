//! The decoder's operations, each with both directions.
//!
//! One file an op. Each holds the composed form in candle tensor operations (runs on any device and
//! is the reference in tests), the CPU kernel on slices, and a check of the gradients against
//! candle's autograd and finite differences. On a CPU tensor the kernel runs, on a GPU that of [`gpu`]
//! where there is one, elsewhere the composed form ([`crate::tensor::place`]). Operands that an op may
//! overwrite are taken by value.
//!
//! Shape letters: t = tokens of a micro-batch (rows concatenated, no padding), d = hidden size,
//! i = intermediate size, h = query heads, g = key/value heads, k = head dim, v = vocabulary,
//! n = tokens that carry a label, r = LoRA rank.

pub mod activation;
pub mod attention;
pub mod bf16;
pub(crate) mod columns;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod embedding;
pub mod gpu;
pub mod head;
pub(crate) mod mat;
pub mod matmul;
pub mod matrix;
pub mod rms_norm;
pub mod rope;
pub mod rounded;
#[cfg(target_arch = "x86_64")]
mod thin;

#[cfg(test)]
pub(crate) mod testing;
