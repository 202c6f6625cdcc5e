//! The engine behind the worker's [`Desk`].

use run::config::Config;
use run::exit::ExitCode;

use super::{Desk, Ended, Failure};

/// Trains as the arguments say.
pub fn train(_config: &Config, _desk: &mut Desk) -> Result<Ended, Failure> {
    Err(Failure {
        code: ExitCode::Bug,
        message: "the engine is not linked yet".to_owned(),
    })
}
/// Prints the encoded rows.
pub fn rows(_config: &Config, _limit: Option<usize>) -> Result<(), Failure> {
    Err(Failure {
        code: ExitCode::Bug,
        message: "the engine is not linked yet".to_owned(),
    })
}
/// Prints the loss.
pub fn eval(_config: &Config) -> Result<(), Failure> {
    Err(Failure {
        code: ExitCode::Bug,
        message: "the engine is not linked yet".to_owned(),
    })
}
