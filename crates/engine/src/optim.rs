//! Optimisers: what turns gradients into updates.

pub mod adamw;
pub mod badam;
pub mod clip;
pub mod rule;
pub mod schedule;
pub mod sparse_adam;
