//! The host's end: carries requests out.
//!
//! One thread reads the connection and never waits for anything else; each channel has a thread that carries its
//! request out, and a running program has one more per stream. Channels share one writer. The agent trusts the lab
//! (it is the lab's hand in the host) but checks every frame, and a failed request fails its channel only.

use super::message::{ChannelId, DATA_BYTES_MAX, Error, ExitStatus, Message, Request, Run, Stream, VERSION};
use super::terminal;
use super::window::Window;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

type Writer = Arc<Mutex<Box<dyn Write + Send>>>;

/// What a channel's thread hears from the lab.
enum Input {
    Bytes(Vec<u8>),
    End,
}

/// One open channel, as the reading thread sees it.
struct Channel {
    input: Sender<Input>,
    control: Arc<Control>,
}

/// A channel's program. `Starting` → `Running` → `Ended`; what never starts stays in the first.
enum Program {
    /// Its thread has yet to start it. The signals that came meanwhile wait here, or they would reach nobody.
    Starting(Vec<Signal>),
    /// The leader of its process group.
    Running(Pid),
    /// The group's number may name another program by now: nobody signals it any more.
    Ended,
}

/// What the reading thread may do to a channel that runs.
struct Control {
    window: Window,
    program: Mutex<Program>,
    terminal: Mutex<Option<OwnedFd>>,
}

impl Control {
    fn program(&self) -> MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, number: i32) {
        let Ok(signal) = Signal::try_from(number) else {
            return;
        };
        match &mut *self.program() {
            Program::Starting(waiting) if waiting.contains(&signal) => {}
            Program::Starting(waiting) => waiting.push(signal),
            // The program may just have ended: then there is nobody left to tell.
            Program::Running(group) => drop(killpg(*group, signal)),
            Program::Ended => {}
        }
    }

    /// The program runs: it takes what signals came before it.
    fn started(&self, group: Pid) {
        let mut program = self.program();
        if let Program::Starting(waiting) = &*program {
            for &signal in waiting {
                let _ = killpg(group, signal);
            }
        }
        *program = Program::Running(group);
    }

    fn close(&self) {
        self.signal(Signal::SIGKILL as i32);
        self.window.close();
    }

    fn resize(&self, size: super::message::TerminalSize) {
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(error)) = terminal.as_ref().map(|slave| terminal::resize(slave, size)) {
            eprintln!("agent: cannot resize a terminal: {error}");
        }
    }
}

/// Sends on a channel. Does not keep the channel alive, so that a thread waiting for input does not either.
#[derive(Clone)]
struct Sending {
    channel: ChannelId,
    writer: Writer,
}

impl Sending {
    fn send(&self, message: &Message) -> Result<(), Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        message.write(self.channel, writer.as_mut())
    }

    fn credit(&self, bytes: usize) -> io::Result<()> {
        self.send(&Message::Credit(u32::try_from(bytes).unwrap_or(u32::MAX)))
            .map_err(io::Error::other)
    }
}

/// A channel as the threads see it that carry its request out; it is over when the last of them is.
#[derive(Clone)]
struct Reply {
    sending: Sending,
    control: Arc<Control>,
}

impl Reply {
    /// Sends all of `source` as credit allows, then its end. A source that fails ends there, as a pipe does.
    fn pump(&self, stream: Stream, mut source: impl Read) -> Result<(), Error> {
        let mut buffer = vec![0; DATA_BYTES_MAX];
        loop {
            let mut rest = match source.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A terminal whose programs are gone reports EIO; for us that is its end.
                Ok(0) | Err(_) => return self.sending.send(&Message::End(stream)),
                Ok(length) => &buffer[..length],
            };
            while !rest.is_empty() {
                let taken = self.control.window.take(rest.len());
                if taken == 0 {
                    return Ok(());
                }
                self.sending
                    .send(&Message::Data(stream, rest[..taken].to_vec()))?;
                rest = &rest[taken..];
            }
        }
    }
}

/// Serves one connection until it ends, then kills everything that still runs on it.
///
/// # Errors
/// [`Error`] if the connection fails or the lab sends what is no message.
pub fn serve(mut from: impl Read, to: impl Write + Send + 'static) -> Result<(), Error> {
    let writer: Writer = Arc::new(Mutex::new(Box::new(to)));
    let mut channels: HashMap<ChannelId, Channel> = HashMap::new();
    Message::Hello(VERSION).write(0, writer.lock().unwrap_or_else(PoisonError::into_inner).as_mut())?;
    let ended = loop {
        match Message::read(&mut from) {
            Ok(Some((id, message))) => dispatch(&mut channels, &writer, id, message),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    channels.values().for_each(|channel| channel.control.close());
    ended
}

fn dispatch(channels: &mut HashMap<ChannelId, Channel>, writer: &Writer, id: ChannelId, message: Message) {
    if let Message::Open(request) = message {
        // Channels whose thread has ended are forgotten here, so the table is as long as what runs.
        channels.retain(|_, channel| Arc::strong_count(&channel.control) > 1);
        channels.insert(id, open(request, id, writer));
        return;
    }
    // A message for a channel that has ended crossed its Exit on the way: nothing to do.
    let Some(channel) = channels.get(&id) else { return };
    match message {
        Message::Data(_, bytes) => drop(channel.input.send(Input::Bytes(bytes))),
        Message::End(_) => drop(channel.input.send(Input::End)),
        Message::Credit(bytes) => channel.control.window.give(bytes),
        Message::Signal(number) => channel.control.signal(number),
        Message::Resize(size) => channel.control.resize(size),
        Message::Close => {
            channel.control.close();
            channels.remove(&id);
        }
        Message::Hello(_) | Message::Open(_) | Message::Exit(_) | Message::Failed(_) => {
            eprintln!("agent: the lab sent what only an agent sends");
        }
    }
}

fn open(request: Request, channel: ChannelId, writer: &Writer) -> Channel {
    let control = Arc::new(Control {
        window: Window::new(),
        program: Mutex::new(Program::Starting(Vec::new())),
        terminal: Mutex::new(None),
    });
    let sending = Sending {
        channel,
        writer: Arc::clone(writer),
    };
    let reply = Reply {
        sending: sending.clone(),
        control: Arc::clone(&control),
    };
    let (sender, input) = mpsc::channel();
    thread::spawn(move || {
        let done = match request {
            Request::Run(run) => self::run(&run, input, &reply),
            Request::Put { path, mode } => put(Path::new(&path), mode, &input, &reply),
            Request::Get { path } => get(Path::new(&path), &reply),
        };
        drop(reply);
        let last = match done {
            Ok(status) => Message::Exit(status),
            Err(error) => Message::Failed(error.to_string()),
        };
        // If this fails the connection is gone, and the reading thread knows.
        let _ = sending.send(&last);
    });
    Channel {
        input: sender,
        control,
    }
}

fn named(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn put(path: &Path, mode: u32, input: &Receiver<Input>, reply: &Reply) -> io::Result<ExitStatus> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(named(parent))?;
    }
    let partial = path.with_added_extension("partial");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&partial)
        .map_err(named(&partial))?;
    while let Ok(Input::Bytes(bytes)) = input.recv() {
        file.write_all(&bytes).map_err(named(&partial))?;
        reply.sending.credit(bytes.len())?;
    }
    // Renamed, so that a program that is running may be replaced and no reader sees half a file.
    fs::rename(&partial, path).map_err(named(path))?;
    Ok(ExitStatus::Code(0))
}

fn get(path: &Path, reply: &Reply) -> io::Result<ExitStatus> {
    let file = File::open(path).map_err(named(path))?;
    reply.pump(Stream::Output, file).map_err(io::Error::other)?;
    Ok(ExitStatus::Code(0))
}

fn run(run: &Run, input: Receiver<Input>, reply: &Reply) -> io::Result<ExitStatus> {
    let program = run
        .argv
        .first()
        .ok_or_else(|| io::Error::other("a program to run has no name"))?;
    let (mut child, mut streams) = start(run, reply).map_err(named(Path::new(program)))?;
    let group = i32::try_from(child.id()).map_err(io::Error::other)?;
    reply.control.started(Pid::from_raw(group));
    if let Some(mut sink) = streams.input.take() {
        let sending = reply.sending.clone();
        thread::spawn(move || feed(sink.as_mut(), &input, &sending));
    }
    let pumps: Vec<_> = streams
        .outputs
        .into_iter()
        .map(|(stream, source)| {
            let reply = reply.clone();
            thread::spawn(move || reply.pump(stream, source))
        })
        .collect();
    let status = child.wait()?;
    *reply.control.program() = Program::Ended;
    *reply
        .control
        .terminal
        .lock()
        .unwrap_or_else(PoisonError::into_inner) = None;
    for pump in pumps {
        let _ = pump.join();
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, signal) => ExitStatus::Signal(signal.unwrap_or_default()),
    })
}

struct Streams {
    input: Option<Box<dyn Write + Send>>,
    outputs: Vec<(Stream, Box<dyn Read + Send>)>,
}

fn start(run: &Run, reply: &Reply) -> io::Result<(Child, Streams)> {
    let directory = run.directory.as_deref().unwrap_or("/");
    let environment = run.env.iter().map(|(name, value)| (name, value));
    if let Some(size) = run.terminal {
        let (master, slave) = terminal::open(size)?;
        let child = terminal::session(&run.argv, &slave)?
            .envs(environment)
            .current_dir(directory)
            .spawn()?;
        *reply
            .control
            .terminal
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(slave);
        let output = File::from(master.try_clone()?);
        let streams = Streams {
            input: Some(Box::new(File::from(master))),
            outputs: vec![(Stream::Output, Box::new(output))],
        };
        return Ok((child, streams));
    }
    let mut child = Command::new(&run.argv[0])
        .args(&run.argv[1..])
        .envs(environment)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let mut outputs: Vec<(Stream, Box<dyn Read + Send>)> = Vec::new();
    outputs.extend(
        child
            .stdout
            .take()
            .map(|pipe| (Stream::Output, Box::new(pipe) as _)),
    );
    outputs.extend(
        child
            .stderr
            .take()
            .map(|pipe| (Stream::Error, Box::new(pipe) as _)),
    );
    let input = child.stdin.take().map(|pipe| Box::new(pipe) as _);
    Ok((child, Streams { input, outputs }))
}

/// Feeds a program its input. One that stops reading loses the rest, but the lab gets its credit back all the same.
fn feed(sink: &mut dyn Write, input: &Receiver<Input>, sending: &Sending) {
    let mut open = true;
    while let Ok(Input::Bytes(bytes)) = input.recv() {
        open = open && sink.write_all(&bytes).is_ok();
        if sending.credit(bytes.len()).is_err() {
            return;
        }
    }
}
