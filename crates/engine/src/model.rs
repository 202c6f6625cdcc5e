//! Models: what they are made of, how they compute, and how they are read and written.

pub mod block;
pub mod config;
pub mod decoder;
pub mod linear;
pub mod lora;
pub mod params;
pub mod rope_freq;
pub mod store;
pub mod weights;
