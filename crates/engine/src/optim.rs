//! Optimisers: what turns gradients into updates.

pub mod adafactor;
pub mod adamw;
pub mod badam;
pub mod clip;
pub mod eight_bit;
pub mod galore;
pub mod lion;
pub mod lora_plus;
pub mod rule;
pub mod schedule;
pub mod sparse_adam;
