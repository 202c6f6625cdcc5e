//! The trainer: a deterministic, synchronous fine-tuning engine on candle tensors.
//!
//! It knows no clock, no environment, no terminal: a caller hands it the world
//! ([`prepare::Surroundings`]) and listens ([`observer::Observer`]).
//!
//! - [`train`]: the loop, top to bottom; [`step`]: one optimiser step
//! - [`plan`]: which rows come when; [`rows`]: where they come from; [`method`]: what the arguments say about the optimiser
//! - [`prepare`]: everything before the first step; [`vocabulary`]: new tokens and their rows
//! - [`finish`], [`card`]: what a run leaves behind
//! - [`state`], [`checkpoint`]: what survives a kill
//! - [`watch`]: what evaluations decide; [`memory`]: how many rows fit; [`estimate`]: what they take
//! - [`report`], [`sample`], [`eval`], [`generate`], [`predict`],
//!   [`task`]: what is told, measured and answered
//! - [`bench`], [`flops`]: how fast a config trains here, of what is possible
//! - [`data`]: from dataset files to token ids; [`batch`]: rows laid end to end
//! - [`model`]: configs, weights, the decoder, adapters, files
//! - [`ops`]: the decoder's operations, each with both directions
//! - [`quant`]: frozen weights that stay quantised
//! - [`optim`]: optimisers, schedules, clipping
//! - [`linalg`]: singular value decompositions
//! - [`allocator`], [`device`], [`rng`], [`simd`], [`tensor`], [`error`]: what these stand on

pub mod allocator;
pub mod batch;
pub mod bench;
pub mod card;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod error;
pub mod estimate;
pub mod eval;
pub mod finish;
pub mod fit;
pub mod flops;
pub mod generate;
pub mod linalg;
pub mod memory;
pub mod method;
pub mod model;
pub mod observer;
pub mod ops;
pub mod optim;
pub mod passes;
pub mod plan;
pub mod predict;
pub mod prepare;
pub mod quant;
pub mod report;
pub mod rng;
pub mod rows;
pub mod sample;
pub mod simd;
pub mod state;
pub mod step;
pub mod task;
pub mod tensor;
pub mod train;
pub mod vocabulary;
pub mod watch;
