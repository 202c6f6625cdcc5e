//! Data: from dataset_info.json to token ids, as LLaMA-Factory does it.
//!
//! Rows are read ([`source`]), brought into one shape ([`convert`]), mixed and split ([`order`]), rendered by a
//! template ([`template`]), tokenised and labelled ([`encode`]) and packed ([`pack`]). [`load`] does all of it.

pub mod chat;
pub mod error;
pub mod order;
pub mod pyjson;
pub mod template;
pub mod tokenizer;
pub mod tools;
