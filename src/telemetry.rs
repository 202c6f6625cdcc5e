//! The server's log: one line an event on stderr, `RUST_LOG` narrows or widens it.
//!
//! Never logged: tokens, cookies, headers, bodies, configurations.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sets the log up. A second call changes nothing.
pub fn start() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,tallow=info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
