//! What a worker's exit code means. The supervisor decides by the code, never by text.

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitCode {
    /// Everything asked for is done.
    Finished,
    /// Stopped because it was asked to; it can be resumed.
    Stopped,
    /// A file or an argument is wrong: trying again changes nothing.
    BadInput,
    /// The disk is full.
    NoSpace,
    /// Memory ran out.
    OutOfMemory,
    /// The loss or a gradient became infinite or not a number.
    NonFinite,
    /// A bug of this program.
    Bug,
    /// Another process works on this run.
    Locked,
}

impl ExitCode {
    /// All codes.
    pub const ALL: [Self; 8] = [
        Self::Finished,
        Self::Stopped,
        Self::BadInput,
        Self::NoSpace,
        Self::OutOfMemory,
        Self::NonFinite,
        Self::Bug,
        Self::Locked,
    ];

    /// The process exit status.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Finished => 0,
            Self::Stopped => 10,
            Self::BadInput => 20,
            Self::NoSpace => 21,
            Self::OutOfMemory => 22,
            Self::NonFinite => 23,
            Self::Bug => 70,
            Self::Locked => 75,
        }
    }

    /// The meaning of an exit status; `None` for one that is not ours (a signal, a shell).
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| exit.code() == code)
    }

    /// A few words for people.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped as asked",
            Self::BadInput => "a file or an argument is wrong",
            Self::NoSpace => "the disk is full",
            Self::OutOfMemory => "memory ran out",
            Self::NonFinite => "the loss or a gradient is not finite",
            Self::Bug => "a bug in this program",
            Self::Locked => "another process works on this run",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ExitCode;

    #[test]
    fn codes_are_distinct_and_read_back() {
        for exit in ExitCode::ALL {
            assert_eq!(ExitCode::from_code(exit.code()), Some(exit));
        }
        for other in [-9, 1, 101, 137] {
            assert_eq!(ExitCode::from_code(other), None);
        }
    }
}
