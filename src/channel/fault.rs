//! What only a peer can do that does not keep to the protocol. The first such thing ends the connection.

use super::session::LogSeq;
use crate::base::limits::LOG_BUFFER_BYTES_MAX;
use crate::base::units::ExitOrdinal;

/// How a peer that has proved who it is broke the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// A frame of the log is missing.
    #[error("log frame {found} came where {expected} is due")]
    Gap {
        /// The one that is due.
        expected: LogSeq,
        /// The one that came.
        found: LogSeq,
    },
    /// It sends more than it was given room for.
    #[error("{0} bytes of log wait to be replayed; {LOG_BUFFER_BYTES_MAX} are allowed")]
    Flood(usize),
    /// It acknowledges what was never sent.
    #[error("log frame {acknowledged} is acknowledged; {sent} is the last one that was sent")]
    Unsent {
        /// The last one that was sent.
        sent: LogSeq,
        /// The one it says it has.
        acknowledged: LogSeq,
    },
    /// It takes back what it has acknowledged.
    #[error("it takes back what it has acknowledged: {what} goes back")]
    Backwards {
        /// Which of the three.
        what: &'static str,
    },
    /// It claims a position that it cannot have reached.
    #[error("it says that it has {what} exit {claimed}; it can be at {reached} at most")]
    Impossible {
        /// What it says that it has done.
        what: &'static str,
        /// Where.
        claimed: ExitOrdinal,
        /// Where it can be at most.
        reached: ExitOrdinal,
    },
    /// It says what only the other end may say, or says again who it is.
    #[error("a frame of kind {0} is out of place")]
    OutOfPlace(&'static str),
}

impl Misbehaviour {
    /// The name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gap { .. } => "log-gap",
            Self::Flood(_) => "log-flood",
            Self::Unsent { .. } => "unsent-acknowledged",
            Self::Backwards { .. } => "acknowledgement-taken-back",
            Self::Impossible { .. } => "impossible-position",
            Self::OutOfPlace(_) => "out-of-place",
        }
    }
}
