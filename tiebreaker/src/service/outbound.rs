//! The way to one other node: a queue, a connection that is made when something waits, and word of what did not arrive.

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

impl Outbound {
    /// Sends what `queue` brings until it ends.
    pub(super) async fn run(self, mut queue: Receiver<Message>) {
        let mut connection: Option<Stream> = None;
        let mut was_reachable = true;
        while let Some(first) = queue.recv().await {
            let mut messages = vec![first];
            let mut bytes = 0;
            while bytes < FRAME_BYTES_MAX
                && let Ok(next) = queue.try_recv()
            {
                bytes += next.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
                messages.push(next);
            }
            let sent = self.send(&mut connection, &messages).await;
            self.report(&messages, sent.is_ok()).await;
            match sent {
                Ok(()) if !was_reachable => tracing::info!("node {} is reached again", self.name),
                Ok(()) => {}
                Err(error) => {
                    if was_reachable {
                        tracing::warn!("node {} at {} is not reached: {error}", self.name, self.address);
                    }
                    connection = None;
                    sleep(Duration::from_millis(REDIAL_MS)).await;
                    // What has gathered meanwhile is of the past.
                    while let Ok(stale) = queue.try_recv() {
                        self.report(&[stale], false).await;
                    }
                }
            }
            was_reachable = connection.is_some();
        }
    }

    async fn send(&self, connection: &mut Option<Stream>, messages: &[Message]) -> Result<(), StreamError> {
        let stream = match connection {
            Some(stream) => stream,
            None => connection.insert(self.connect().await?),
        };
        let mut frames = Vec::new();
        for message in messages {
            let parts = parts_of(message);
            if parts.is_empty() {
                return Err(io::Error::other("a message is longer than any that is taken").into());
            }
            frames.extend(parts);
        }
        // A frame at a time may take as long as the handshake: a snapshot has many.
        for piece in frames.chunks(64) {
            let piece = piece.concat();
            let patience = u64::from(UNACKNOWLEDGED_MS_MAX) + HANDSHAKE_MS_MAX;
            let sending = timeout(Duration::from_millis(patience), stream.send(&piece));
            sending.await.unwrap_or(Err(StreamError::Late(patience)))?;
        }
        Ok(())
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
                while !self
                    .inbox
                    .post(Work::Event(Event::SnapshotSent { to, whole: sent }))
                    && !self.inbox.is_closed()
                {
                    sleep(Duration::from_millis(REDIAL_MS)).await;
                }
            } else if !sent {
                self.inbox.post(Work::Event(Event::Unreachable(to)));
            }
        }
    }
}
