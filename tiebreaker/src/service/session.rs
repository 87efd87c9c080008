//! One connection to this node: who is there, what it may ask, and until when.

use std::sync::Arc;
use std::time::Duration;

use antipode_certs::{Identity, Role};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::inbox::{Inbox, View, Work};
use crate::limits::{HANDSHAKE_MS_MAX, SILENT_CLIENT_MS_MAX};
use crate::node::{Demand, Impossible, NodeId, Query, Reply};
use crate::wire::{Assembler, Hello, HelloError, Kind, Listener, MessageError, Stream, StreamError};

/// Whether the holder of a certificate may ask for `demand`. Of a change, the record decides whose it is.
///
/// # Errors
/// What it is told where it may not.
pub fn authorise(from: &Identity, demand: &Demand) -> Result<(), String> {
    let allowed: &[Role] = match demand {
        Demand::Change { .. } => &[Role::Site, Role::Operator],
        Demand::Read(Query::Show { .. } | Query::List { .. }) | Demand::Status => &Role::ALL,
        Demand::Read(Query::Export { .. }) => &[Role::Operator],
        Demand::Reseat { .. } => &[Role::Tiebreaker],
    };
    if allowed.contains(&from.role) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(|role| role.name()).collect();
    Err(format!(
        "{from} may not ask for this; a certificate for the role {} may",
        names.join(" or ")
    ))
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Hello(#[from] HelloError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

impl SessionError {
    /// Whether the other end broke a rule, rather than a wire.
    const fn is_fault_of_peer(&self) -> bool {
        match self {
            Self::Stream(error) => error.is_fault_of_peer(),
            Self::Hello(_) | Self::Message(_) | Self::Impossible(_) => true,
        }
    }
}

/// Serves one connection until it is over.
pub(super) async fn serve(listener: Arc<Listener>, tcp: TcpStream, inbox: Inbox, view: Arc<View>) {
    let from = tcp.peer_addr().map_or_else(
        |error| format!("an unknown address ({error})"),
        |from| from.to_string(),
    );
    match converse(&listener, tcp, &inbox, &view).await {
        // Clients come and go.
        Ok(()) | Err(SessionError::Stream(StreamError::Io(_) | StreamError::Late(_))) => {}
        Err(error) => {
            if error.is_fault_of_peer() {
                view.count_fault();
            }
            tracing::warn!("a session from {from} ended: {error}");
        }
    }
}

async fn converse(
    listener: &Listener,
    tcp: TcpStream,
    inbox: &Inbox,
    view: &View,
) -> Result<(), SessionError> {
    let mut stream = listener.welcome(tcp).await?;
    let hello: Hello = match stream.receive_json(Kind::Hello, HANDSHAKE_MS_MAX).await {
        Err(StreamError::Unexpected(_) | StreamError::Unreadable) => Err(HelloError::Malformed.into()),
        other => other.map_err(SessionError::from),
    }?;
    let own = view.owner();
    match hello.admit(stream.peer(), &own, &view.seats()) {
        Ok(Some(id)) => {
            view.learn(id, &stream.peer().name);
            listen_to_node(stream, Assembler::new(id, own.id), inbox, view).await
        }
        Ok(None) => serve_client(stream, inbox).await,
        Err(error) if hello.node.is_none() => {
            // What the client asks is read first: what is not read would take the answer with it.
            let _: Demand = stream.receive_json(Kind::Demand, HANDSHAKE_MS_MAX).await?;
            let told = Reply::Forbidden(error.told(&own));
            stream.send_json(Kind::Reply, &told).await?;
            Err(error.into())
        }
        Err(error) => Err(error.into()),
    }
}

async fn listen_to_node(
    mut stream: Stream,
    mut assembler: Assembler,
    inbox: &Inbox,
    view: &View,
) -> Result<(), SessionError> {
    let mut payload = Vec::new();
    let (end, mut ended) = mpsc::channel::<Impossible>(1);
    loop {
        let kind = tokio::select! {
            // What was half received then is of no use.
            Some(why) = ended.recv() => return Err(why.into()),
            kind = stream.receive(&mut payload) => kind?,
        };
        match assembler.take(kind, &payload) {
            Ok(Some(message)) => {
                inbox.post(Work::Message {
                    message: Box::new(message),
                    end: end.clone(),
                });
            }
            Ok(None) => {}
            // Ids rise: the sender is not behind, this node is.
            Err(MessageError::Recipient(id)) if NodeId(id) > view.owner().id => {
                view.note_successor(NodeId(id));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn serve_client(mut stream: Stream, inbox: &Inbox) -> Result<(), SessionError> {
    loop {
        let demand: Demand = stream.receive_json(Kind::Demand, SILENT_CLIENT_MS_MAX).await?;
        let reply = match authorise(stream.peer(), &demand) {
            Err(why) => Reply::Forbidden(why),
            Ok(()) => ask(stream.peer().clone(), demand, inbox).await,
        };
        // A client that takes nothing in must not keep a place.
        let sending = timeout(
            Duration::from_millis(SILENT_CLIENT_MS_MAX),
            stream.send_json(Kind::Reply, &reply),
        );
        sending
            .await
            .unwrap_or(Err(StreamError::Late(SILENT_CLIENT_MS_MAX)))?;
    }
}

async fn ask(from: Identity, demand: Demand, inbox: &Inbox) -> Reply {
    let (reply, answer) = oneshot::channel();
    if inbox.post(Work::Request { from, demand, reply }) {
        // Whoever has the other end dropped it unused: the node stopped before it knew.
        answer.await.unwrap_or(Reply::Unknown)
    } else {
        Reply::Busy
    }
}
