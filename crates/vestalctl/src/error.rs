//! Why a command did not do what was asked, and the exit code that says so to scripts.

use endpoint::{CallError, Code};

/// The exit codes that scripts branch on. They are a promise: none ever changes its meaning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    /// Refused, or tried in vain.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// No such service, instance, object or file.
    NotFound = 3,
    /// Nobody answers.
    Unreachable = 4,
    TimedOut = 5,
}

/// What is printed on stderr as one line, and the exit code.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Error {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self::new(Exit::Failed, text)
    }

    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(Exit::Usage, text)
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let exit = match &error {
            CallError::Unreachable { .. } => Exit::Unreachable,
            CallError::Timeout { .. } => Exit::TimedOut,
            CallError::Refused(failure) => match failure.code {
                Code::NotFound | Code::UnknownMethod => Exit::NotFound,
                Code::Timeout => Exit::TimedOut,
                _ => Exit::Failed,
            },
            // Nobody knows whether a lost call was done; a script must not take it for one that never arrived.
            CallError::Lost { .. } | CallError::Violation { .. } => Exit::Failed,
            CallError::Invalid { .. } => Exit::Usage,
        };
        Self::new(exit, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use endpoint::Failure;

    use super::*;

    fn exit(code: Code) -> Exit {
        Error::from(CallError::from(Failure::new(code, "no"))).exit
    }

    #[test]
    fn what_a_daemon_answers_decides_the_exit_code() {
        assert_eq!(exit(Code::NotFound), Exit::NotFound);
        assert_eq!(exit(Code::Denied), Exit::Failed);
        assert_eq!(exit(Code::InvalidArgument), Exit::Failed);
        assert_eq!(exit(Code::Timeout), Exit::TimedOut);
    }
}
