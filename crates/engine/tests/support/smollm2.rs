//! The real model of the tests: SmolLM2-135M-Instruct as a GGUF file (Q4_1).

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The file, fetched by `scripts/fetch_smollm2.sh` if need be. Fails where it cannot be had.
pub fn gguf() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/fetch_smollm2.sh");
        let out = Command::new("bash").arg(script).output().unwrap_or_else(|e| panic!("bash: {e}"));
        let (text, log) =
            (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{script}: {log}");
        PathBuf::from(text.trim())
    })
    .clone()
}
