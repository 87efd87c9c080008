//! The messages between lab and agent.
//!
//! ```text
//!  ┌────────────┬─────────────┬────────┬───────────────────────┐
//!  │ length u32 │ channel u32 │ kind u8│ body (length-5 bytes) │   big endian
//!  └────────────┴─────────────┴────────┴───────────────────────┘
//! ```
//! `length` counts everything after itself and is at most [`FRAME_BYTES_MAX`]. Both ends are built from one tree and
//! installed together, so [`VERSION`] is only checked, never negotiated.

use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Raised with every change to this file's formats.
pub const VERSION: u32 = 1;

/// The most data bytes in one message.
pub const DATA_BYTES_MAX: usize = 32 * 1024;

/// The longest frame after its length.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Data bytes a channel may have in flight, per direction.
pub const WINDOW_BYTES: usize = 256 * 1024;

const _: () = assert!(DATA_BYTES_MAX + 6 <= FRAME_BYTES_MAX && WINDOW_BYTES >= 2 * DATA_BYTES_MAX);

const HEADER_BYTES: usize = 5;

/// Names a channel of one connection. 0 is the connection itself.
pub type ChannelId = u32;

/// What a channel is opened for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Run a program; input feeds it, its output and error streams come back, `Exit` is its status.
    Run(Run),
    /// Write input to a file, which is created or replaced whole once the input ends.
    Put {
        /// Where; missing parent directories are made.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Send a file back as output.
    Get {
        /// Which.
        path: String,
    },
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Program and arguments; the program is looked up in the host's `PATH`.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    pub env: Vec<(String, String)>,
    /// Working directory, `/` if absent.
    pub directory: Option<String>,
    /// On a terminal of this size instead of pipes; output and error are then one stream.
    pub terminal: Option<TerminalSize>,
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// Which data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Towards the host.
    Input,
    /// From the host: standard output, or a file.
    Output,
    /// From the host: standard error.
    Error,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl ExitStatus {
    /// Whether it exited with 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The agent is ready and speaks this version.
    Hello(u32),
    /// Open a channel.
    Open(Request),
    /// Data, at most [`DATA_BYTES_MAX`] of it.
    Data(Stream, Vec<u8>),
    /// No more data on this stream.
    End(Stream),
    /// So many data bytes were consumed.
    Credit(u32),
    /// Send a signal to the program and all it started.
    Signal(i32),
    /// The terminal has a new size.
    Resize(TerminalSize),
    /// The lab gives the channel up; what runs there is killed.
    Close,
    /// The program ended, or the file is written or sent.
    Exit(ExitStatus),
    /// The request could not be carried out.
    Failed(String),
}

/// Bytes that are no message, or a connection that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection.
    #[error("the control connection failed: {0}")]
    Io(#[from] io::Error),
    /// The bytes.
    #[error("the other end of the control connection does not speak its protocol: {0}")]
    Malformed(String),
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Malformed(what.into())
}

impl Message {
    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => 1,
            Self::Open(_) => 2,
            Self::Data(..) => 3,
            Self::End(_) => 4,
            Self::Credit(_) => 5,
            Self::Signal(_) => 6,
            Self::Resize(_) => 7,
            Self::Close => 8,
            Self::Exit(_) => 9,
            Self::Failed(_) => 10,
        }
    }

    /// The whole frame.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it would exceed [`FRAME_BYTES_MAX`]: an absurdly long argument list.
    pub fn encode(&self, channel: ChannelId) -> Result<Vec<u8>, Error> {
        let mut frame = vec![0; 4];
        frame.extend(channel.to_be_bytes());
        frame.push(self.kind());
        match self {
            Self::Hello(value) | Self::Credit(value) => frame.extend(value.to_be_bytes()),
            Self::Open(request) => frame.extend(serde_json::to_vec(request).unwrap_or_default()),
            Self::Data(stream, bytes) => {
                frame.push(stream.code());
                frame.extend(bytes);
            }
            Self::End(stream) => frame.push(stream.code()),
            Self::Signal(number) => frame.extend(number.to_be_bytes()),
            Self::Resize(size) => {
                frame.extend(size.rows.to_be_bytes());
                frame.extend(size.columns.to_be_bytes());
            }
            Self::Close => {}
            Self::Exit(ExitStatus::Code(code)) => {
                frame.push(0);
                frame.extend(code.to_be_bytes());
            }
            Self::Exit(ExitStatus::Signal(number)) => {
                frame.push(1);
                frame.extend(number.to_be_bytes());
            }
            Self::Failed(reason) => frame.extend(reason.bytes().take(DATA_BYTES_MAX)),
        }
        let length = frame.len() - 4;
        if length > FRAME_BYTES_MAX {
            return Err(malformed(format!(
                "a message of {length} bytes, above {FRAME_BYTES_MAX}"
            )));
        }
        frame[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        Ok(frame)
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Self, Error> {
        let fixed = |what| malformed(format!("{what} has {} bytes", body.len()));
        let word = || {
            body.try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| fixed("a number"))
        };
        let number = |bytes: &[u8]| {
            bytes
                .try_into()
                .map(i32::from_be_bytes)
                .map_err(|_| fixed("a status"))
        };
        match kind {
            1 => word().map(Self::Hello),
            2 => serde_json::from_slice(body)
                .map(Self::Open)
                .map_err(|error| malformed(error.to_string())),
            3 => {
                let (stream, bytes) = body.split_first().ok_or_else(|| fixed("data"))?;
                if bytes.len() > DATA_BYTES_MAX {
                    return Err(fixed("data"));
                }
                Ok(Self::Data(Stream::parse(*stream)?, bytes.to_vec()))
            }
            4 => match body {
                [stream] => Stream::parse(*stream).map(Self::End),
                _ => Err(fixed("an end")),
            },
            5 => word().map(Self::Credit),
            6 => number(body).map(Self::Signal),
            7 => match body {
                [a, b, c, d] => Ok(Self::Resize(TerminalSize {
                    rows: u16::from_be_bytes([*a, *b]),
                    columns: u16::from_be_bytes([*c, *d]),
                })),
                _ => Err(fixed("a size")),
            },
            8 if body.is_empty() => Ok(Self::Close),
            9 => match body.split_first() {
                Some((0, code)) => number(code).map(|code| Self::Exit(ExitStatus::Code(code))),
                Some((1, signal)) => number(signal).map(|signal| Self::Exit(ExitStatus::Signal(signal))),
                _ => Err(fixed("an exit status")),
            },
            10 => Ok(Self::Failed(String::from_utf8_lossy(body).into_owned())),
            _ => Err(malformed(format!(
                "message kind {kind} with {} bytes",
                body.len()
            ))),
        }
    }

    /// Writes one frame in one call.
    ///
    /// # Errors
    /// As [`Message::encode`], and those of the connection.
    pub fn write(&self, channel: ChannelId, mut to: impl Write) -> Result<(), Error> {
        to.write_all(&self.encode(channel)?)?;
        Ok(to.flush()?)
    }

    /// Reads one frame; `None` if the connection ended between two.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything [`Message::write`] does not write; then the connection must be closed.
    pub fn read(mut from: impl Read) -> Result<Option<(ChannelId, Self)>, Error> {
        let mut head = [0; 4];
        match from.read(&mut head)? {
            0 => return Ok(None),
            got => from.read_exact(&mut head[got..])?,
        }
        let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
        if !(HEADER_BYTES..=FRAME_BYTES_MAX).contains(&length) {
            return Err(malformed(format!("a frame of {length} bytes")));
        }
        let mut frame = vec![0; length];
        from.read_exact(&mut frame)?;
        let channel = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        Ok(Some((channel, Self::decode(frame[4], &frame[HEADER_BYTES..])?)))
    }
}

impl Stream {
    const fn code(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Error => 2,
        }
    }

    fn parse(code: u8) -> Result<Self, Error> {
        match code {
            0 => Ok(Self::Input),
            1 => Ok(Self::Output),
            2 => Ok(Self::Error),
            _ => Err(malformed(format!("stream {code}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let run = Run {
            argv: vec!["sh".into(), "-c".into(), "true".into()],
            env: vec![("A".into(), "b".into())],
            directory: Some("/tmp".into()),
            terminal: Some(TerminalSize {
                rows: 24,
                columns: 80,
            }),
        };
        vec![
            Message::Hello(VERSION),
            Message::Open(Request::Run(run)),
            Message::Open(Request::Put {
                path: "/a".into(),
                mode: 0o755,
            }),
            Message::Open(Request::Get { path: "/a".into() }),
            Message::Data(Stream::Error, vec![7; DATA_BYTES_MAX]),
            Message::Data(Stream::Input, vec![]),
            Message::End(Stream::Output),
            Message::Credit(5),
            Message::Signal(9),
            Message::Resize(TerminalSize { rows: 1, columns: 2 }),
            Message::Close,
            Message::Exit(ExitStatus::Code(-1)),
            Message::Exit(ExitStatus::Signal(15)),
            Message::Failed("no such file".into()),
        ]
    }

    #[test]
    fn what_is_written_is_read() {
        for message in samples() {
            let frame = message.encode(3).unwrap();
            assert_eq!(Message::read(frame.as_slice()).unwrap(), Some((3, message)));
        }
    }

    #[test]
    fn every_truncated_prefix_is_an_error_or_the_end() {
        for message in samples() {
            let frame = message.encode(3).unwrap();
            for end in (1..frame.len()).step_by(frame.len() / 64 + 1) {
                assert!(Message::read(&frame[..end]).is_err(), "{message:?} cut at {end}");
            }
        }
        assert!(Message::read([].as_slice()).unwrap().is_none());
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_allocated() {
        for length in [0, 4, FRAME_BYTES_MAX + 1, 0xffff_ffff] {
            let head = u32::try_from(length).unwrap().to_be_bytes();
            assert!(
                matches!(Message::read(head.as_slice()), Err(Error::Malformed(_))),
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(kind: u8, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Message::decode(kind, &body);
        }
    }
}
