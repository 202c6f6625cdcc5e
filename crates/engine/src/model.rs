//! Models: what they are made of, how they compute, and how they are read and written.

pub mod adapter_file;
pub mod block;
pub mod config;
pub mod decoder;
pub mod dora;
pub mod embed_lora;
pub mod entries;
pub mod freeze;
pub mod gguf;
pub mod gguf_tokenizer;
pub mod hub;
pub mod linear;
pub mod lora;
pub mod neftune;
pub mod params;
pub mod pissa;
pub mod quantise;
pub mod rope_freq;
pub mod save;
pub mod store;
pub mod weights;

/// Text from a file that may be damaged, fit for an error of one line: control characters are
/// escaped, and what is very long is cut.
pub(crate) fn brief(text: impl std::fmt::Display) -> String {
    const LONGEST: usize = 200;
    let text = text.to_string();
    let mut out = String::new();
    for c in text.chars() {
        if out.len() > LONGEST {
            out.push_str("...");
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}
