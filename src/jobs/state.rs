//! The life of a run as a pure function: what may happen in which state, and what is to be done about it.
//!
//! ```text
//!            start                 exit 0
//! queued ----------> running ------------------> finished
//!   |  ^               | |  \ exit 10
//!   |  |        stop   | |   `-----------------> stopped
//!   |  | resume        v |  exit 20 21 22 23 70
//!   |  +--- stopping <-+ +---------------------> failed
//!   |            |      died: again, at most 3 times without progress, then failed
//!   `--stop------+-----------------------------> stopped
//! ```
//!
//! `lost` is for a run whose folder is gone. Every state that is over, but `finished`, can be resumed.

use std::time::Duration;

use run::exit::ExitCode;

use super::StopMode;
use crate::db::runs::Status;

/// Automatic restarts of a run that makes no progress.
pub const RESTARTS: i64 = 3;
/// Pauses before the first, second and third of them.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)];

/// What decides over a run's next state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Where it stands.
    pub status: Status,
    /// Automatic restarts since the last progress.
    pub restarts: i64,
    /// Highest step at the last restart.
    pub best_step: i64,
    /// How it was told to stop.
    pub stop: Option<StopMode>,
}

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A worker slot is free and it is first in the queue.
    Start,
    /// Somebody asks it to stop.
    Stop(StopMode),
    /// Somebody asks it to go on.
    Resume,
    /// Its worker is gone, at this step.
    Ended {
        /// How.
        how: Ending,
        /// Optimiser steps done, as far as is known.
        step: i64,
    },
    /// Its folder is gone.
    Vanished,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It said so.
    Exit(ExitCode),
    /// It died without a word.
    Died,
}

/// What is to be done after a change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Put it at the end of the queue.
    Queue,
    /// Start a worker after a pause.
    Spawn(Duration),
    /// Tell the worker how to stop.
    Tell(StopMode),
    /// Another process has the run: follow that one.
    Follow,
}

/// Why an input is refused; a text for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// What becomes of a run.
///
/// # Errors
/// Where the input makes no sense in this state; nothing changes then.
pub fn next(state: State, input: Input) -> Result<(State, Effect), Refused> {
    let over = |status| (State { status, stop: None, ..state }, Effect::None);
    match input {
        Input::Start if state.status == Status::Queued => Ok((
            State { status: Status::Running, stop: None, ..state },
            Effect::Spawn(Duration::ZERO),
        )),
        Input::Start => Err(Refused("The run is not in the queue.")),
        Input::Stop(mode) => match (state.status, state.stop) {
            (Status::Queued, _) => Ok(over(Status::Stopped)),
            // `now` is not taken back
            (Status::Stopping, Some(StopMode::Now)) => Ok((state, Effect::None)),
            (Status::Running | Status::Stopping, _) => Ok((
                State { status: Status::Stopping, stop: Some(mode), ..state },
                Effect::Tell(mode),
            )),
            _ => Err(Refused("The run is over.")),
        },
        Input::Resume if state.status.can_resume() => {
            Ok((State { status: Status::Queued, restarts: 0, stop: None, ..state }, Effect::Queue))
        }
        Input::Resume if state.status == Status::Finished => Err(Refused("The run has finished.")),
        Input::Resume => Err(Refused("The run is not over.")),
        Input::Vanished if state.status.is_active() => Ok(over(Status::Lost)),
        Input::Ended { how, step } if state.status.is_active() => Ok(match how {
            Ending::Exit(ExitCode::Finished) => over(Status::Finished),
            Ending::Exit(ExitCode::Stopped) => over(Status::Stopped),
            Ending::Exit(ExitCode::Locked) => (state, Effect::Follow),
            Ending::Exit(_) => over(Status::Failed),
            // it was on its way out; its last checkpoint is there
            Ending::Died if state.status == Status::Stopping => over(Status::Stopped),
            Ending::Died => died(state, step),
        }),
        Input::Ended { .. } | Input::Vanished => Err(Refused("The run has no worker.")),
    }
}

fn died(state: State, step: i64) -> (State, Effect) {
    let restarts = if step > state.best_step { 0 } else { state.restarts };
    let best_step = step.max(state.best_step);
    match usize::try_from(restarts).ok().and_then(|done| PAUSES.get(done)) {
        Some(pause) => {
            (State { restarts: restarts + 1, best_step, ..state }, Effect::Spawn(*pause))
        }
        None => (State { status: Status::Failed, restarts, best_step, ..state }, Effect::None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: State = State { status: Status::Queued, restarts: 0, best_step: 0, stop: None };

    fn exit(code: ExitCode) -> Input {
        Input::Ended { how: Ending::Exit(code), step: 5 }
    }

    fn died_at(step: i64) -> Input {
        Input::Ended { how: Ending::Died, step }
    }

    #[test]
    fn whole_lives() {
        use Input::{Resume, Start, Stop};
        let check = |inputs: &[Input], expected: Status| {
            let state = inputs
                .iter()
                .fold(NEW, |state, input| next(state, *input).map_or(state, |(state, _)| state));
            assert_eq!(state.status, expected, "{inputs:?}");
        };
        check(&[Start], Status::Running);
        check(&[Start, exit(ExitCode::Finished)], Status::Finished);
        check(&[Start, exit(ExitCode::Finished), Resume], Status::Finished);
        check(&[Start, Stop(StopMode::Save)], Status::Stopping);
        check(&[Start, Stop(StopMode::Save), exit(ExitCode::Stopped)], Status::Stopped);
        check(&[Start, Stop(StopMode::Save), exit(ExitCode::Finished)], Status::Finished);
        check(&[Start, Stop(StopMode::Now), died_at(3)], Status::Stopped);
        check(&[Start, Stop(StopMode::Now), died_at(3), Resume], Status::Queued);
        check(&[Stop(StopMode::Save)], Status::Stopped);
        check(&[Start, exit(ExitCode::BadInput)], Status::Failed);
        check(&[Start, exit(ExitCode::BadInput), Resume, Start], Status::Running);
        check(&[Start, exit(ExitCode::Locked)], Status::Running);
        check(&[Start, died_at(0), died_at(0), died_at(0)], Status::Running);
        check(&[Start, died_at(0), died_at(0), died_at(0), died_at(0)], Status::Failed);
        check(&[Start, died_at(9), died_at(9), died_at(9)], Status::Running);
        check(&[Start, died_at(9), died_at(9), died_at(9), died_at(8)], Status::Failed);
        check(
            &[Start, died_at(1), died_at(2), died_at(3), died_at(4), died_at(5)],
            Status::Running,
        );
        check(&[Start, Input::Vanished], Status::Lost);
        check(&[Start, Input::Vanished, Resume], Status::Queued);
    }

    fn input() -> impl Strategy<Value = Input> {
        let code = proptest::sample::select(ExitCode::ALL.to_vec());
        prop_oneof![
            3 => Just(Input::Start),
            1 => Just(Input::Stop(StopMode::Save)),
            1 => Just(Input::Stop(StopMode::Now)),
            2 => Just(Input::Resume),
            1 => Just(Input::Vanished),
            2 => (code, 0..50_i64).prop_map(|(code, step)| Input::Ended { how: Ending::Exit(code), step }),
            4 => (0..50_i64).prop_map(died_at),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 10_000, ..ProptestConfig::default() })]
        #[test]
        fn every_sequence(inputs in proptest::collection::vec(input(), 0..60)) {
            let (mut state, mut workers) = (NEW, 0);
            for input in inputs {
                let before = state;
                let Ok((after, effect)) = next(state, input) else { continue };
                if let Input::Ended { .. } = input {
                    prop_assert_eq!(workers, 1); // nothing ends that did not run
                    if effect != Effect::Follow {
                        workers -= 1;
                    }
                }
                if input == Input::Vanished {
                    workers = 0;
                }
                if let Effect::Spawn(_) = effect {
                    workers += 1;
                    prop_assert!(after.status == Status::Running);
                }
                prop_assert!(workers == i64::from(after.status.is_active()), "{:?} {:?} {:?}", before, input, after);
                prop_assert!(after.restarts <= RESTARTS);
                prop_assert!(after.stop.is_some() == (after.status == Status::Stopping));
                prop_assert!(before.status != Status::Finished, "finished is the end");
                prop_assert!(after.best_step >= before.best_step);
                state = after;
            }
        }
    }
}
