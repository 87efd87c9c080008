//! Local control sockets: one question a line, one answer a line, JSON; for their owner alone (O2).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::guest::happening::{Happening, Request};
use crate::base::clock::{HostClock, SystemClock};
use crate::base::limits::SITE_MESSAGE_BYTES_MAX;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks whoever listens at `socket`.
///
/// # Errors
/// When nobody answers.
pub fn ask(socket: &Path, question: &impl Serialize) -> io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Looks again and again until `look` has found something; none if it has not after `patience`.
pub fn until<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(50);
    let begun = SystemClock.monotonic_ns();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Duration::from_nanos(SystemClock.monotonic_ns() - begun) >= patience {
            return None;
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// A socket at `path`, for its owner alone. One that a dead process has left is replaced.
///
/// # Errors
/// When another process listens there, or the host refuses.
pub(super) fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{}: another process listens there", path.display()),
        ));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Hands what is asked at `listener` to a VM's driver.
pub(super) async fn serve(
    listener: std::os::unix::net::UnixListener,
    happenings: UnboundedSender<Happening>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let happenings = happenings.clone();
        tokio::spawn(async move {
            if let Err(error) = answer_one(stream, happenings).await {
                tracing::debug!(%error, "a question on the control socket");
            }
        });
    }
}

async fn answer_one(
    mut stream: tokio::net::UnixStream,
    happenings: UnboundedSender<Happening>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let limit = SITE_MESSAGE_BYTES_MAX as u64;
    tokio::io::BufReader::new(reader.take(limit))
        .read_line(&mut line)
        .await?;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => {
            let (reply, answer) = oneshot::channel();
            let asked = happenings.send(Happening::Control(request, reply));
            match asked {
                Ok(()) => answer.await.ok(),
                Err(_) => None,
            }
            .unwrap_or_else(|| serde_json::json!({ "ok": false, "error": "the VM's process ends" }))
        }
        Err(error) => serde_json::json!({ "ok": false, "error": error.to_string() }),
    };
    let mut text = answer.to_string();
    text.push('\n');
    writer.write_all(text.as_bytes()).await
}
