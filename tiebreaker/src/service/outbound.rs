//! The way to one other node: a queue, a connection that is made when something waits, and word of what did not arrive.
//!
//! Nothing comes back on such a connection but its end, and that is waited for: two followers have nothing to say to each
//! other for days, and what is first written to a connection that the other end has closed is lost without a word. It
//! would be the question for a vote, and nobody asks again before another election time is over.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role};
use raft::eraftpb::{Message, MessageType};
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};

use super::inbox::{Inbox, Work};
use crate::limits::{FRAME_BYTES_MAX, HANDSHAKE_MS_MAX, REDIAL_MS, UNACKNOWLEDGED_MS_MAX};
use crate::node::{Event, NodeId};
use crate::wire::{Hello, Kind, Stream, StreamError, dial, parts_of};

pub(super) struct Outbound {
    pub(super) name: Name,
    pub(super) address: String,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) hello: Hello,
    pub(super) inbox: Inbox,
}

/// Why `connection` is over, once it is; of none, never.
async fn closed(connection: &mut Option<Stream>) -> StreamError {
    match connection {
        Some(stream) => stream.closed().await,
        None => pending().await,
    }
}

impl Outbound {
    /// Sends what `queue` brings until it ends.
    pub(super) async fn run(self, mut queue: Receiver<Message>) {
        let mut connection: Option<Stream> = None;
        // Of one that the other end refuses, its end comes before anything more is sent.
        let mut proven = false;
        let mut was_reachable = true;
        loop {
            let first = tokio::select! {
                first = queue.recv() => first,
                error = closed(&mut connection) => {
                    self.note_loss(&error, &mut was_reachable);
                    connection = None;
                    if !proven {
                        self.pause(&mut queue).await;
                    }
                    continue;
                }
            };
            let Some(first) = first else {
                return;
            };
            let mut messages = vec![first];
            let mut bytes = 0;
            while bytes < FRAME_BYTES_MAX
                && let Ok(next) = queue.try_recv()
            {
                bytes += next.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
                messages.push(next);
            }
            proven = connection.is_some();
            let sent = self.send(&mut connection, &messages).await;
            self.report(&messages, sent.is_ok()).await;
            match sent {
                Ok(()) if proven && !was_reachable => {
                    was_reachable = true;
                    tracing::info!("node {} is reached again", self.name);
                }
                Ok(()) => {}
                Err(error) => {
                    self.note_loss(&error, &mut was_reachable);
                    connection = None;
                    self.pause(&mut queue).await;
                }
            }
        }
    }

    fn note_loss(&self, error: &StreamError, was_reachable: &mut bool) {
        if std::mem::replace(was_reachable, false) {
            tracing::warn!("node {} at {} is not reached: {error}", self.name, self.address);
        }
    }

    /// Before another try. What has gathered meanwhile is of the past.
    async fn pause(&self, queue: &mut Receiver<Message>) {
        sleep(Duration::from_millis(REDIAL_MS)).await;
        while let Ok(stale) = queue.try_recv() {
            self.report(&[stale], false).await;
        }
    }

    async fn send(&self, connection: &mut Option<Stream>, messages: &[Message]) -> Result<(), StreamError> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(self.connect().await?),
        };
        let mut piece = Vec::new();
        for message in messages {
            let mut parts = parts_of(message).peekable();
            if parts.peek().is_none() {
                return Err(io::Error::other("a message is longer than any that is taken").into());
            }
            for part in parts {
                piece.extend(part);
                if piece.len() >= FRAME_BYTES_MAX {
                    send_piece(stream, &piece).await?;
                    piece.clear();
                }
            }
        }
        send_piece(stream, &piece).await
    }

    async fn connect(&self) -> Result<Stream, StreamError> {
        let exactly = PeerRule::Exactly(Identity {
            role: Role::Tiebreaker,
            name: self.name.clone(),
        });
        let mut stream = dial(&self.address, &self.credentials, exactly).await?;
        stream.send_json(Kind::Hello, &self.hello).await?;
        Ok(stream)
    }

    /// Consensus waits for word of every snapshot, so that is never dropped; it is glad of word of a node that is away.
    async fn report(&self, messages: &[Message], sent: bool) {
        for message in messages {
            let to = NodeId(message.to);
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let word = Event::SnapshotSent { to, whole: sent };
                self.inbox.deliver(Work::Event(word)).await;
            } else if !sent {
                self.inbox.post(Work::Event(Event::Unreachable(to)));
            }
        }
    }
}

/// A piece at a time may take as long as the handshake: a snapshot has many.
async fn send_piece(stream: &mut Stream, piece: &[u8]) -> Result<(), StreamError> {
    let patience = u64::from(UNACKNOWLEDGED_MS_MAX) + HANDSHAKE_MS_MAX;
    let sending = timeout(Duration::from_millis(patience), stream.send(piece));
    sending.await.unwrap_or(Err(StreamError::Late(patience)))
}
