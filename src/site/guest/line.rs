//! The connections of the logging channel: dialled or accepted, again and again, for as long as the pairing is open.

use std::sync::Arc;
use std::time::Duration;

use antipode_certs::Name;
use antipode_certs::tls::LiveCredentials;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::happening::Happening;
use crate::channel::{Connection, Hello, Listener, Reader, TransportError, dial};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Keeps a line to the other copy, and ends with this.
#[derive(Debug)]
pub(super) struct Line(JoinHandle<()>);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What every line needs.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) credentials: Arc<LiveCredentials>,
    pub(super) peer: Name,
    pub(super) happenings: UnboundedSender<Happening>,
    /// What is said at the beginning of a connection, as of now.
    pub(super) hello: watch::Receiver<Hello>,
    /// Told by the driver when a connection is gone: the next one is wanted.
    pub(super) wanted: Arc<tokio::sync::Notify>,
}

impl Ends {
    /// Without a driver nobody wants to know.
    fn refused(&self, error: &TransportError) {
        let _ = self.happenings.send(Happening::Refused(error.into()));
    }
}

impl Line {
    /// Calls `address` whenever a connection is wanted.
    pub(super) fn dialled(ends: Ends, address: String) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let greeted = match dial(&address, &ends.credentials, &ends.peer).await {
                    Ok(connection) => greet(connection, &ends).await,
                    Err(error) => Err(error),
                };
                match greeted {
                    Ok(()) => ends.wanted.notified().await,
                    Err(error) => {
                        tracing::debug!("the logging channel: {error}");
                        ends.refused(&error);
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }))
    }

    /// Takes calls.
    pub(super) fn accepted(ends: Ends, mut listener: Listener) -> Self {
        Self(tokio::spawn(async move {
            loop {
                let greeted = match listener.accept().await {
                    Ok(connection) => greet(connection, &ends).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = greeted {
                    tracing::warn!("a call on the logging channel was turned away: {error}");
                    ends.refused(&error);
                    // Errors of the host's come at once, again and again.
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }))
    }
}

async fn greet(connection: Connection, ends: &Ends) -> Result<(), TransportError> {
    let ours = ends.hello.borrow().clone();
    let opened = connection.greet(&ours).await?;
    // Without a driver nobody waits.
    let _ = ends.happenings.send(Happening::Opened(Box::new(opened)));
    Ok(())
}

/// Hands on what comes over connection `number`, to its end.
pub(super) fn read(
    number: u64,
    mut reader: Reader,
    happenings: UnboundedSender<Happening>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let happening = match reader.next().await {
                Ok(message) => Happening::Message(number, message),
                Err(error) => Happening::Lost(number, (&error).into()),
            };
            let is_over = matches!(happening, Happening::Lost(..));
            if happenings.send(happening).is_err() || is_over {
                return;
            }
        }
    })
}
