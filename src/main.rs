//! The executable: parse the arguments, run a subcommand, give its exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tallow::cli::Allocator = tallow::cli::Allocator;

fn main() -> ExitCode {
    tallow::cli::main()
}
