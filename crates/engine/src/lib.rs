//! The trainer: a deterministic, synchronous fine-tuning engine on candle tensors.
//!
//! - [`ops`]: the decoder's operations, each with both directions
//! - [`model`]: configs, weights, the decoder, adapters, files
//! - [`optim`]: optimisers, schedules, clipping
//! - [`data`]: from dataset files to token ids
//! - [`batch`]: rows of tokens laid end to end
//! - [`rng`], [`simd`], [`tensor`], [`error`]: what these stand on

pub mod batch;
pub mod data;
pub mod error;
pub mod eval;
pub mod generate;
pub mod model;
pub mod ops;
pub mod optim;
pub mod rng;
pub mod simd;
pub mod step;
pub mod tensor;
