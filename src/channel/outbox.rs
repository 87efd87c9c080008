//! What waits to be written to a connection, bounded whatever the other end reads.
//!
//! ```text
//!   Ack, Ping, Pong   one of each: a newer one stands for those that wait, and goes before log frames
//!   Log               in order; there is never more than the sender's backlog, which shares the bytes
//!   Word              in order, after the log frames before it; the latest few
//!   Check             in order, after the words; whoever says one waits for an answer, so there are few
//!   Repair            in order, after those; whoever says one waits too
//!   Bye               one, last: what is put after it is dropped
//! ```

use std::collections::VecDeque;

use super::check::Check;
use super::frame::{Ack, ByeReason, Frame, LogFrame, Message};
use super::session::Tag;
use crate::base::limits::{
    CHANNEL_CHECKS_WAITING_MAX, CHANNEL_REPAIRS_WAITING_MAX, CHANNEL_WORDS_WAITING_MAX, CHANNEL_WRITE_BYTES,
};

/// Messages on their way to the line.
#[derive(Debug)]
pub struct Outbox {
    tag: Tag,
    ack: Option<Ack>,
    ping: Option<u64>,
    pong: Option<u64>,
    log: VecDeque<LogFrame>,
    words: VecDeque<Vec<u8>>,
    checks: VecDeque<Check>,
    repairs: VecDeque<Vec<u8>>,
    bye: Option<ByeReason>,
    is_closed: bool,
}

impl Outbox {
    /// For a session with `tag`.
    #[must_use]
    pub const fn new(tag: Tag) -> Self {
        Self {
            tag,
            ack: None,
            ping: None,
            pong: None,
            log: VecDeque::new(),
            words: VecDeque::new(),
            checks: VecDeque::new(),
            repairs: VecDeque::new(),
            bye: None,
            is_closed: false,
        }
    }

    /// Puts `message` in its place.
    ///
    /// # Panics
    /// On a Hello: it is said before there is an outbox.
    pub fn put(&mut self, message: Message) {
        if self.is_closed {
            return;
        }
        match message {
            Message::Ack(ack) => self.ack = Some(ack),
            Message::Ping(stamp) => self.ping = Some(stamp),
            Message::Pong(stamp) => self.pong = Some(stamp),
            Message::Log(frame) => self.log.push_back(frame),
            Message::Word(word) => {
                if self.words.len() == CHANNEL_WORDS_WAITING_MAX {
                    // Words may be lost with a connection anyway; the role says again what matters.
                    self.words.pop_front();
                }
                self.words.push_back(word);
            }
            Message::Check(check) => {
                if self.checks.len() == CHANNEL_CHECKS_WAITING_MAX {
                    // A verification that is answered nothing ends after a while.
                    self.checks.pop_front();
                }
                self.checks.push_back(check);
            }
            Message::Repair(word) => {
                if self.repairs.len() == CHANNEL_REPAIRS_WAITING_MAX {
                    // A copy that waits in vain leaves, or says it again over the next connection.
                    self.repairs.pop_front();
                }
                self.repairs.push_back(word);
            }
            Message::Bye(reason) => {
                self.bye = Some(reason);
                self.is_closed = true;
            }
            Message::Hello(_) => unreachable!("a Hello is said once, before there is an outbox"),
        }
    }

    fn next(&mut self) -> Option<Message> {
        let first = self.ack.take().map(Message::Ack);
        first
            .or_else(|| self.ping.take().map(Message::Ping))
            .or_else(|| self.pong.take().map(Message::Pong))
            .or_else(|| self.log.pop_front().map(Message::Log))
            .or_else(|| self.words.pop_front().map(Message::Word))
            .or_else(|| self.checks.pop_front().map(Message::Check))
            .or_else(|| self.repairs.pop_front().map(Message::Repair))
            .or_else(|| self.bye.take().map(Message::Bye))
    }

    /// Appends all that waits to `bytes`; what is put from now on is of the session with `tag`.
    pub fn turn(&mut self, tag: Tag, bytes: &mut Vec<u8>) {
        while let Some(message) = self.next() {
            Frame {
                tag: self.tag,
                message,
            }
            .encode(bytes);
        }
        self.tag = tag;
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ack.is_none()
            && self.ping.is_none()
            && self.pong.is_none()
            && self.log.is_empty()
            && self.words.is_empty()
            && self.checks.is_empty()
            && self.repairs.is_empty()
            && self.bye.is_none()
    }

    /// Appends the next frames to `bytes`, until that holds [`CHANNEL_WRITE_BYTES`] or nothing waits.
    pub fn take_into(&mut self, bytes: &mut Vec<u8>) {
        while bytes.len() < CHANNEL_WRITE_BYTES
            && let Some(message) = self.next()
        {
            let tag = self.tag;
            Frame { tag, message }.encode(bytes);
        }
    }
}
