//! Asks the tiebreaker: each question is a task of its own, so that a slow one holds up no other.
//!
//! Connections are kept for the next question: a claim does not begin with a handshake.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use antipode_certs::Name;
use antipode_certs::tls::LiveCredentials;
use antipode_tiebreaker::client::{Client, ClientError, Cluster};
use antipode_tiebreaker::{Answer, Record, Request};
use tokio::sync::mpsc::UnboundedSender;

use super::happening::Happening;
use crate::base::clock::wall_clock_unix_seconds;
use crate::protocol::role::{Ask, ReadId};

/// How long one try may take; the role asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long one node may take before another is asked.
const NODE_PATIENCE: Duration = Duration::from_millis(400);

/// Connections that are kept.
const IDLE_MAX: usize = 2;

/// Whom to ask, about which VM.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) cluster: Cluster,
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) vm: Name,
    pub(super) happenings: UnboundedSender<Happening>,
    /// Clients that wait for a question.
    pub(super) idle: Arc<Mutex<Vec<Client>>>,
}

impl Asker {
    fn client(&self) -> Client {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fresh = || Client::new(self.cluster.clone(), Arc::clone(&self.credentials));
        idle.unwrap_or_else(|| fresh().patient_for(NODE_PATIENCE))
    }

    /// Keeps `client` if its question was answered.
    fn keep<T>(&self, client: Client, outcome: &Result<T, ClientError>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.is_ok() && idle.len() < IDLE_MAX {
            idle.push(client);
        }
    }

    async fn show(&self) -> Result<Option<Record>, ClientError> {
        let mut client = self.client();
        let outcome = client.show(&self.vm, PATIENCE).await;
        self.keep(client, &outcome);
        outcome
    }

    /// Asks for the record, whatever it is; ends in [`Happening::InTouch`] if it is answered.
    pub(super) fn keep_in_touch(&self) {
        let asker = self.clone();
        tokio::spawn(async move {
            match asker.show().await {
                // Without a driver nobody waits.
                Ok(_) => drop(asker.happenings.send(Happening::InTouch)),
                Err(error) => tracing::debug!("the tiebreaker: {error}"),
            }
        });
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
            let mut client = asker.client();
            let outcome = client.change(&asker.vm, &request, PATIENCE).await;
            asker.keep(client, &outcome);
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
            let record = match asker.show().await {
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
