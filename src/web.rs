//! The web side: one table of routes, the guard in front of it, the JSON API, the event stream and the pages.

pub mod api;
pub mod assets;
pub mod auth;
pub mod base;
pub mod cache;
pub mod compare;
pub mod error;
pub mod extract;
pub mod forms;
pub mod guard;
pub mod openapi;
pub mod pages;
pub mod presets;
pub mod router;
pub mod sse;
pub mod state;
pub mod system;
pub mod team;
