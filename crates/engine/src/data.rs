//! Data: from dataset_info.json to token ids, as LLaMA-Factory does it.
//!
//! Rows are read ([`source`]), brought into one shape ([`convert`]), mixed and split ([`order`]), rendered by a
//! template ([`template`]), tokenised and labelled ([`encode`]) and packed ([`pack`]). [`load`] does all of it.

pub mod chat;
pub mod convert;
pub mod encode;
pub mod error;
pub mod info;
pub mod load;
pub mod order;
pub mod pack;
pub mod preview;
pub mod pyjson;
pub mod report;
pub mod source;
pub mod template;
pub mod tokenizer;
pub mod tools;

pub use encode::{IGNORE, Row};
pub use error::DataError;
pub use load::{DataArgs, Dataset, Stage, load, prepare_template};
pub use preview::preview_row;
pub use report::{BadRow, Report};
pub use template::{Template, TemplateOptions};
pub use tokenizer::Tokenizer;
pub use tools::RunDate;
