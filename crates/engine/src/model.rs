//! Models: what they are made of, and how they are read and written.

pub mod config;
pub mod gguf;
pub mod params;
pub mod rope_freq;
pub mod weights;
