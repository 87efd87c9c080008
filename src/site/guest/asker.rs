//! Asks the tiebreaker: each question is a task of its own, so that a slow one holds up no other.

use std::sync::Arc;
use std::time::Duration;

use antipode_certs::Name;
use antipode_certs::tls::LiveCredentials;
use antipode_tiebreaker::client::{Client, ClientError, Cluster};
use antipode_tiebreaker::{Answer, Request};
use tokio::sync::mpsc::UnboundedSender;

use super::happening::Happening;
use crate::base::clock::wall_clock_unix_seconds;
use crate::protocol::role::{Ask, ReadId};

/// How long one try may take; the role asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one node may take before another is asked.
const NODE_PATIENCE: Duration = Duration::from_millis(400);

/// Whom to ask, about which VM.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) cluster: Cluster,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) vm: Name,
    pub(super) happenings: UnboundedSender<Happening>,
}

impl Asker {
    fn client(&self) -> Client {
        Client::new(self.cluster.clone(), Arc::clone(&self.credentials)).patient_for(NODE_PATIENCE)
    }

    /// Sends a request; ends in [`Happening::Answered`].
    pub(super) fn change(&self, ask: Ask) {
        let asker = self.clone();
        tokio::spawn(async move {
            let request = Request {
                id: ask.id,
                expected: ask.expected,
                operation: ask.operation,
                at_unix_seconds: wall_clock_unix_seconds(),
            };
            let outcome = asker.client().change(&asker.vm, &request, PATIENCE).await;
            let answer: Option<Box<Answer>> = match outcome {
                Ok(answer) => Some(Box::new(answer)),
                Err(error) => {
                    warn(&asker.vm, &error);
                    None
                }
            };
            // Without a driver nobody waits.
            let _ = asker.happenings.send(Happening::Answered(ask.id, answer));
        });
    }

    /// Reads the record; ends in [`Happening::RecordRead`].
    pub(super) fn read(&self, read: ReadId) {
        let asker = self.clone();
        tokio::spawn(async move {
            let outcome = asker.client().show(&asker.vm, PATIENCE).await;
            let record = match outcome {
                Ok(record) => Some(record.map(Box::new)),
                Err(error) => {
                    warn(&asker.vm, &error);
                    None
                }
            };
            let _ = asker.happenings.send(Happening::RecordRead(read, record));
        });
    }
}

fn warn(vm: &Name, error: &ClientError) {
    tracing::warn!(%vm, "the tiebreaker: {error}");
}
