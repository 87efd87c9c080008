//! What an open connection lets through: frames of its own session, that the other end may send.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::fault::Misbehaviour;
use super::frame::{Frame, Message};
use super::session::{Session, Side, Tag};

/// The session that may follow over the same connection, with the two ends turned round (P7): said from any thread.
#[derive(Debug, Clone, Default)]
pub struct Turning(Arc<Mutex<Option<Tag>>>);

impl Turning {
    /// The other end may speak in `session` from now on; it has then left the one before.
    pub fn expect(&self, session: &Session) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(session.tag());
    }

    /// Whether `tag` is what was expected; it is expected no more then.
    fn take_if(&self, tag: Tag) -> bool {
        let mut expected = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        expected.take_if(|expected| *expected == tag).is_some()
    }
}

/// Judges each frame after the Hello.
#[derive(Debug)]
pub struct Gate {
    tag: Tag,
    from: Side,
    turning: Turning,
    foreign: Arc<AtomicU64>,
}

impl Gate {
    /// For a session with `tag`, whose other end is `from`.
    #[must_use]
    pub fn new(tag: Tag, from: Side) -> Self {
        Self {
            tag,
            from,
            turning: Turning::default(),
            foreign: Arc::default(),
        }
    }

    /// The message of `frame`, or none where it belongs to another session: that one is counted and forgotten (P2).
    ///
    /// # Errors
    /// Where the other end may not say that.
    pub fn admit(&mut self, frame: Frame) -> Result<Option<Message>, Misbehaviour> {
        if frame.tag != self.tag && self.turning.take_if(frame.tag) {
            self.tag = frame.tag;
            self.from = self.from.other();
        }
        if frame.tag != self.tag {
            self.foreign.fetch_add(1, Ordering::Relaxed);
            return Ok(None);
        }
        let may_say = match (&frame.message, self.from) {
            (Message::Hello(_), _) | (Message::Log(_), Side::Backup) | (Message::Ack(_), Side::Primary) => {
                false
            }
            (Message::Check(check), from) => check.may_come_from(from),
            (Message::Log(_), Side::Primary)
            | (Message::Ack(_), Side::Backup)
            | (
                Message::Ping(_) | Message::Pong(_) | Message::Word(_) | Message::Repair(_) | Message::Bye(_),
                _,
            ) => true,
        };
        if may_say {
            Ok(Some(frame.message))
        } else {
            Err(Misbehaviour::OutOfPlace(frame.message.name()))
        }
    }

    /// The session whose frames it lets through.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        self.tag
    }

    /// By which it is told which session may follow.
    #[must_use]
    pub fn turning(&self) -> Turning {
        self.turning.clone()
    }

    /// How many frames were of other sessions, as it is counted on.
    #[must_use]
    pub fn foreign(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.foreign)
    }
}
