//! The executable: parse the arguments, run a subcommand, give its exit code.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: engine::allocator::Allocator = engine::allocator::Allocator;

fn main() -> ExitCode {
    tallow::cli::main()
}
