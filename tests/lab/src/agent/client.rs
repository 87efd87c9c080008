//! The lab's end: opens channels on a host's agent.
//!
//! One thread reads the connection and sorts messages by channel. [`Agent`] is a handle that may be cloned and used
//! from any thread. If the host dies, every channel ends with [`Error::Gone`].

use super::message::{
    self, ChannelId, DATA_BYTES_MAX, ExitStatus, Message, Request, Run, Stream, TerminalSize, VERSION,
};
use super::window::Window;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A command that takes longer has got stuck: builds happen elsewhere, and no host is asked for more at once.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(900);

/// Why the agent did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host said nothing in time.
    #[error("the agent did not answer within {0:?}; the host's console log says how far it came")]
    Silent(Duration),
    /// A command went on for too long.
    #[error("it has not ended within {COMMAND_TIMEOUT:?}; is the host stuck?")]
    Unending,
    /// The host is down, or its agent.
    #[error("the host is gone: its control connection ended")]
    Gone,
    /// The agent is of another build.
    #[error(
        "the agent speaks version {0} of the control protocol, this lab {VERSION}: build both from one tree"
    )]
    Version(u32),
    /// The agent tried and could not.
    #[error("the host could not do it: {0}")]
    Failed(String),
    /// The connection, or a request that cannot be sent.
    #[error(transparent)]
    Message(#[from] message::Error),
}

/// A program's end and all it wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without blanks around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// What a channel reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Output or error bytes.
    Data(Stream, Vec<u8>),
    /// The last event: how it ended.
    Exit(ExitStatus),
}

struct Entry {
    events: Sender<Message>,
    /// Absent on a relayed channel: credit is then the business of the two ends.
    window: Option<Arc<Window>>,
}

struct Shared {
    writer: Mutex<UnixStream>,
    /// `None` once the connection has ended.
    channels: Mutex<Option<HashMap<ChannelId, Entry>>>,
    last_channel: Mutex<ChannelId>,
}

impl Shared {
    fn send(&self, channel: ChannelId, message: &Message) -> Result<(), Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        message.write(channel, &mut *writer).map_err(|error| match error {
            message::Error::Io(_) => Error::Gone,
            malformed @ message::Error::Malformed(_) => malformed.into(),
        })
    }

    fn with_channels<T>(&self, f: impl FnOnce(&mut HashMap<ChannelId, Entry>) -> T) -> Option<T> {
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .map(f)
    }

    fn register(&self, entry: Entry) -> Result<ChannelId, Error> {
        let id = {
            let mut last = self.last_channel.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            *last
        };
        self.with_channels(|channels| channels.insert(id, entry))
            .ok_or(Error::Gone)?;
        Ok(id)
    }

    fn sort(&self, channel: ChannelId, message: Message) {
        let is_last = matches!(message, Message::Exit(_) | Message::Failed(_));
        self.with_channels(|channels| {
            let Some(entry) = channels.get(&channel) else {
                return;
            };
            match (&entry.window, &message) {
                (Some(window), Message::Credit(bytes)) => window.give(*bytes),
                // A receiver that was dropped has sent Close already.
                _ => drop(entry.events.send(message)),
            }
            if is_last
                && let Some(Entry {
                    window: Some(window), ..
                }) = channels.remove(&channel)
            {
                window.close();
            }
        });
    }

    fn end(&self) {
        let channels = self
            .channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        for entry in channels.into_iter().flat_map(HashMap::into_values) {
            entry.window.iter().for_each(|window| window.close());
        }
    }
}

/// What handles and channels hold; the reading thread does not, so the last of them closes the connection.
struct Connection(Arc<Shared>);

impl std::ops::Deref for Connection {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only if the other end closed it first.
        let _ = writer.shutdown(std::net::Shutdown::Both);
    }
}

/// A connection to a host's agent.
#[derive(Clone)]
pub struct Agent {
    shared: Arc<Connection>,
}

impl Agent {
    /// Waits for the agent's greeting on a connection just made.
    ///
    /// # Errors
    /// [`Error::Silent`] after `timeout`, [`Error::Gone`], [`Error::Version`].
    pub fn connect(stream: UnixStream, timeout: Duration) -> Result<Self, Error> {
        let reader = stream.try_clone().map_err(message::Error::from)?;
        let shared = Arc::new(Shared {
            writer: Mutex::new(stream),
            channels: Mutex::new(Some(HashMap::new())),
            last_channel: Mutex::new(0),
        });
        let (greeted, greeting) = mpsc::channel();
        let sorter = Arc::clone(&shared);
        let connection = Connection(shared);
        thread::spawn(move || {
            read_all(&sorter, reader, &greeted);
            sorter.end();
        });
        match greeting.recv_timeout(timeout) {
            Ok(VERSION) => Ok(Self {
                shared: Arc::new(connection),
            }),
            Ok(other) => Err(Error::Version(other)),
            Err(RecvTimeoutError::Timeout) => Err(Error::Silent(timeout)),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Gone),
        }
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Error::Gone`], or a request too long to send.
    pub fn open(&self, request: Request) -> Result<Channel, Error> {
        let (events, receiver) = mpsc::channel();
        let window = Arc::new(Window::new());
        let id = self.shared.register(Entry {
            events,
            window: Some(Arc::clone(&window)),
        })?;
        let input = Input {
            id,
            window,
            shared: Arc::clone(&self.shared),
        };
        let channel = Channel {
            input,
            events: receiver,
            ended: false,
        };
        self.shared.send(id, &Message::Open(request))?;
        Ok(channel)
    }

    /// Runs a program to its end with empty input.
    ///
    /// # Errors
    /// [`Error::Failed`] if it cannot be started; a program that ends badly is no error here.
    pub fn run(&self, run: Run) -> Result<Output, Error> {
        self.run_with_input(run, &[])
    }

    /// Runs a program to its end with the given input.
    ///
    /// # Errors
    /// As [`Agent::run`].
    pub fn run_with_input(&self, run: Run, input: &[u8]) -> Result<Output, Error> {
        let mut channel = self.open(Request::Run(run))?;
        let feeder = channel.input();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _ = feeder.send(input).and_then(|()| feeder.end());
            });
            channel.collect()
        })
    }

    /// Writes a file on the host; it appears whole.
    ///
    /// # Errors
    /// [`Error::Failed`] with the host's reason, or that of reading `source`.
    pub fn put(&self, path: &str, mode: u32, mut source: impl Read) -> Result<(), Error> {
        let mut channel = self.open(Request::Put {
            path: path.to_owned(),
            mode,
        })?;
        let mut buffer = vec![0; DATA_BYTES_MAX];
        loop {
            let length = source.read(&mut buffer).map_err(message::Error::from)?;
            if length == 0 {
                break;
            }
            if channel.input.send(&buffer[..length]).is_err() {
                // The host has given the channel up; its reason is waiting in the events.
                break;
            }
        }
        let _ = channel.input.end();
        channel.collect().map(drop)
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// [`Error::Failed`] with the host's reason, or that of writing to `sink`.
    pub fn get(&self, path: &str, mut sink: impl Write) -> Result<(), Error> {
        let mut channel = self.open(Request::Get {
            path: path.to_owned(),
        })?;
        while let Event::Data(_, bytes) = channel.next()? {
            sink.write_all(&bytes).map_err(message::Error::from)?;
        }
        Ok(())
    }

    /// Lets another process use this agent over `stream`, as if it were connected itself; returns when it leaves.
    /// Its channels are renumbered and otherwise passed through, credit included.
    ///
    /// # Errors
    /// [`Error::Message`] if the other process sends what is no message.
    pub fn relay(&self, stream: UnixStream) -> Result<(), Error> {
        let mut from = stream.try_clone().map_err(message::Error::from)?;
        let to = Arc::new(Mutex::new(stream));
        let back = |message: &Message, id| {
            message.write(id, &mut *to.lock().unwrap_or_else(PoisonError::into_inner))
        };
        back(&Message::Hello(VERSION), 0)?;
        let mut numbers: HashMap<ChannelId, ChannelId> = HashMap::new();
        let ended = loop {
            let (theirs, message) = match Message::read(&mut from) {
                Ok(Some(received)) => received,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            if matches!(message, Message::Open(_)) {
                let (events, receiver) = mpsc::channel();
                let ours = self.shared.register(Entry { events, window: None })?;
                numbers.insert(theirs, ours);
                let to = Arc::clone(&to);
                thread::spawn(move || relay_back(&receiver, theirs, &to));
            }
            if let Some(ours) = numbers.get(&theirs) {
                self.shared.send(*ours, &message)?;
            }
        };
        for ours in numbers.into_values() {
            let was_open = self
                .shared
                .with_channels(|channels| channels.remove(&ours).is_some());
            if was_open == Some(true) {
                self.shared.send(ours, &Message::Close)?;
            }
        }
        ended
    }
}

fn relay_back(events: &Receiver<Message>, channel: ChannelId, to: &Mutex<UnixStream>) {
    for message in events {
        let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
        if message.write(channel, &mut *to).is_err() {
            return;
        }
    }
}

fn read_all(shared: &Shared, mut from: UnixStream, greeted: &Sender<u32>) {
    loop {
        match Message::read(&mut from) {
            Ok(Some((_, Message::Hello(version)))) => drop(greeted.send(version)),
            Ok(Some((channel, message))) => shared.sort(channel, message),
            // A host that is killed cuts its last message short: whatever the reason, it is gone.
            Ok(None) | Err(_) => return,
        }
    }
}

/// The lab's half of a channel that feeds it; may be used from another thread than the events.
#[derive(Clone)]
pub struct Input {
    id: ChannelId,
    window: Arc<Window>,
    shared: Arc<Connection>,
}

impl Input {
    /// Sends input, waiting for the host to consume it.
    ///
    /// # Errors
    /// [`Error::Gone`] if the channel is over.
    pub fn send(&self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let taken = self.window.take(bytes.len().min(DATA_BYTES_MAX));
            if taken == 0 {
                return Err(Error::Gone);
            }
            self.shared
                .send(self.id, &Message::Data(Stream::Input, bytes[..taken].to_vec()))?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Ends the input.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn end(&self) -> Result<(), Error> {
        self.shared.send(self.id, &Message::End(Stream::Input))
    }

    /// Sends a signal to the program and all it started.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn signal(&self, number: i32) -> Result<(), Error> {
        self.shared.send(self.id, &Message::Signal(number))
    }

    /// Tells the program's terminal a new size.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.shared.send(self.id, &Message::Resize(size))
    }
}

/// An open channel. Dropping it before its end kills what runs there.
pub struct Channel {
    input: Input,
    events: Receiver<Message>,
    ended: bool,
}

impl Channel {
    /// The half that feeds it.
    #[must_use]
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Waits for the next event; after [`Event::Exit`] there is none.
    ///
    /// # Errors
    /// [`Error::Failed`] if the request could not be carried out, [`Error::Gone`].
    #[expect(
        clippy::should_implement_trait,
        reason = "fallible and blocking: not an iterator"
    )]
    pub fn next(&mut self) -> Result<Event, Error> {
        self.next_until(None)
            .map(|event| event.unwrap_or(Event::Exit(ExitStatus::Code(0))))
    }

    /// Waits for the next event until a deadline; `None` then.
    ///
    /// # Errors
    /// As [`Channel::next`].
    pub fn next_before(&mut self, deadline: Instant) -> Result<Option<Event>, Error> {
        self.next_until(Some(deadline))
    }

    fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Event>, Error> {
        loop {
            let message = match deadline {
                None => self.events.recv().map_err(|_| Error::Gone)?,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match self.events.recv_timeout(left) {
                        Ok(message) => message,
                        Err(RecvTimeoutError::Timeout) => return Ok(None),
                        Err(RecvTimeoutError::Disconnected) => return Err(Error::Gone),
                    }
                }
            };
            match message {
                Message::Data(stream, bytes) => {
                    let credit = Message::Credit(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    self.input.shared.send(self.input.id, &credit)?;
                    return Ok(Some(Event::Data(stream, bytes)));
                }
                Message::Exit(status) => {
                    self.ended = true;
                    return Ok(Some(Event::Exit(status)));
                }
                Message::Failed(reason) => {
                    self.ended = true;
                    return Err(Error::Failed(reason));
                }
                _ => {}
            }
        }
    }

    /// Waits for the end and returns all that came.
    ///
    /// # Errors
    /// As [`Channel::next`], and [`Error::Unending`] if it takes longer than 15 minutes.
    pub fn collect(&mut self) -> Result<Output, Error> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        loop {
            match self.next_before(deadline)?.ok_or(Error::Unending)? {
                Event::Data(Stream::Error, bytes) => stderr.extend(bytes),
                Event::Data(_, bytes) => stdout.extend(bytes),
                Event::Exit(status) => {
                    return Ok(Output {
                        status,
                        stdout,
                        stderr,
                    });
                }
            }
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.ended {
            self.input.window.close();
            let shared = &self.input.shared;
            shared.with_channels(|channels| channels.remove(&self.input.id));
            let _ = shared.send(self.input.id, &Message::Close);
        }
    }
}
