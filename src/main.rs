//! The executable: parse the arguments, run a subcommand, give its exit code.

fn main() {}
