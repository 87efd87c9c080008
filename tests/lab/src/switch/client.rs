//! Talking to a running switch.

use super::control::{Answer, Command, PortReport};
use super::fabric::Way;
use super::link::ShapeChange;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A switch answers within one turn of its loop; longer means it is stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the switch did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached.
    #[error("cannot reach the switch at {path}: {source}; is the lab up?")]
    Unreachable {
        /// Its control socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the switch refused: {0}")]
    Refused(String),
}

/// A connection to a switch's control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let unreachable = |source| Error::Unreachable {
            path: path.to_owned(),
            source,
        };
        let stream = UnixStream::connect(path).map_err(unreachable)?;
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .map_err(unreachable)?;
        Ok(Self {
            path: path.to_owned(),
            stream: BufReader::new(stream),
        })
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Refused`] with the switch's own words, or [`Error::Unreachable`] if it went away.
    pub fn send(&mut self, command: &Command) -> Result<Answer, Error> {
        let answer = self.exchange(command);
        let answer = answer.map_err(|source| Error::Unreachable {
            path: self.path.clone(),
            source,
        })?;
        if answer.ok {
            Ok(answer)
        } else {
            Err(Error::Refused(answer.error.unwrap_or_default()))
        }
    }

    fn exchange(&mut self, command: &Command) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        if self.stream.read_line(&mut answer)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&answer)?)
    }

    /// Changes the shape of one way of a port, or of both.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn shape(&mut self, port: &str, way: Option<Way>, shape: ShapeChange) -> Result<(), Error> {
        self.send(&Command::Shape {
            port: port.to_owned(),
            way,
            shape,
        })
        .map(drop)
    }

    /// Cuts one way of a port, or both.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn cut(&mut self, port: &str, way: Option<Way>) -> Result<(), Error> {
        self.shape(
            port,
            way,
            ShapeChange {
                cut: Some(true),
                ..ShapeChange::default()
            },
        )
    }

    /// Mends a cut; the rest of the shape stays.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn heal(&mut self, port: &str, way: Option<Way>) -> Result<(), Error> {
        self.shape(
            port,
            way,
            ShapeChange {
                cut: Some(false),
                ..ShapeChange::default()
            },
        )
    }

    /// Shapes and counters of every port.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn ports(&mut self) -> Result<Vec<PortReport>, Error> {
        Ok(self.send(&Command::Ports)?.ports.unwrap_or_default())
    }
}
