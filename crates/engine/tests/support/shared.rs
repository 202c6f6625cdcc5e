//! The recorded truth in `shared/`, where a checkout has it beside it.

use std::path::PathBuf;

/// `shared/parity`, or `None` with a line that says what is left out.
pub fn parity() -> Option<PathBuf> {
    let root = match std::env::var_os("TALLOW_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let parity = root.join("parity");
    if !parity.is_dir() {
        eprintln!("left out: {} is not there", parity.display());
        return None;
    }
    Some(parity)
}
