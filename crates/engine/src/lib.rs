//! The trainer: a deterministic, synchronous fine-tuning engine on candle tensors.
pub mod error;
pub mod ops;
pub mod rng;
pub mod simd;
pub mod tensor;
