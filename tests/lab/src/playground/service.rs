//! One socket that leads to every host's agent, and the file that says where it is.
//!
//! A client sends one line, `{"host":"site-a"}`, is answered `{"ok":true}` or `{"ok":false,"error":"…"}`, and then
//! speaks the agent's protocol (`crate::agent`) with that host.

use crate::agent::client::Agent;
use crate::host::{Error, Result};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// A relayed greeting comes from the lab, not from the host: it is immediate.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);

/// A host's name and a little JSON.
const LINE_BYTES_MAX: usize = 4_096;

/// What `target/lab/up/<name>.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    /// The process that owns it all.
    pub(super) pid: u32,
    /// Leads to the agents.
    pub(super) control: PathBuf,
    /// The switch's control socket.
    pub(super) switch: PathBuf,
    /// Logs.
    pub(super) run: PathBuf,
    /// Host names.
    pub(super) hosts: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Wanted {
    host: String,
}

#[derive(Serialize, Deserialize)]
struct Granted {
    ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Description {
    pub(super) fn path(lab_directory: &Path, name: &str) -> PathBuf {
        lab_directory.join("up").join(format!("{name}.json"))
    }

    pub(super) fn read(lab_directory: &Path, name: &str) -> anyhow::Result<Self> {
        let path = Self::path(lab_directory, name);
        let text = std::fs::read(&path).with_context(|| {
            format!(
                "no playground called {name} is up ({}); start one with `cargo lab up`",
                path.display()
            )
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not ours", path.display()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let directory = path.parent().unwrap_or(path);
        std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(path, text?))
            .map_err(Error::file("write", path))
    }
}

/// Serves clients from threads of its own for as long as the process lives.
pub(super) fn serve(socket: &Path, agents: BTreeMap<String, Agent>) -> Result<()> {
    let listener = UnixListener::bind(socket).map_err(Error::file("listen on", socket))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let agents = agents.clone();
            // A client that breaks off, or talks nonsense, loses its own connection only.
            thread::spawn(move || greet(stream, &agents));
        }
    });
    Ok(())
}

fn greet(mut stream: UnixStream, agents: &BTreeMap<String, Agent>) -> io::Result<()> {
    let wanted: Wanted = serde_json::from_str(&read_line(&mut stream)?)?;
    let agent = agents.get(&wanted.host);
    let names: Vec<&str> = agents.keys().map(String::as_str).collect();
    let error = agent
        .is_none()
        .then(|| format!("no host {}; there are: {}", wanted.host, names.join(", ")));
    let answer = serde_json::to_string(&Granted {
        ok: agent.is_some(),
        error,
    })?;
    writeln!(stream, "{answer}")?;
    agent.map_or(Ok(()), |agent| agent.relay(stream).map_err(io::Error::other))
}

/// Reads a line and not a byte more: what follows is the agent's protocol.
fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < LINE_BYTES_MAX {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return String::from_utf8(line).map_err(io::Error::other);
        }
        line.push(byte[0]);
    }
    Err(io::Error::other("a line too long"))
}

/// Connects to a host of a playground of another process.
pub(super) fn connect(description: &Description, host: &str) -> anyhow::Result<Agent> {
    let mut stream = UnixStream::connect(&description.control)
        .context("the playground is gone (its process was killed?); start it again with `cargo lab up`")?;
    let wanted = serde_json::to_string(&Wanted {
        host: host.to_owned(),
    })?;
    writeln!(stream, "{wanted}")?;
    let granted: Granted = serde_json::from_str(&read_line(&mut stream)?)?;
    if !granted.ok {
        bail!(granted.error.unwrap_or_default());
    }
    Ok(Agent::connect(stream, GREETING_TIMEOUT)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::message::Run;
    use crate::agent::server;

    #[test]
    fn another_process_reaches_a_host_by_name_and_hears_of_a_wrong_one() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || server::serve(theirs.try_clone().unwrap(), theirs));
        let agent = Agent::connect(ours, GREETING_TIMEOUT).unwrap();
        let control = directory.path().join("control");
        serve(&control, BTreeMap::from([("a".to_owned(), agent)])).unwrap();
        let description = Description {
            pid: 1,
            control,
            switch: "/s".into(),
            run: "/r".into(),
            hosts: Vec::new(),
        };
        let path = Description::path(directory.path(), "default");
        description.write(&path).unwrap();
        let description = Description::read(directory.path(), "default").unwrap();
        let through = connect(&description, "a").unwrap();
        let run = Run {
            argv: vec!["echo".into(), "hello".into()],
            ..Run::default()
        };
        assert_eq!(through.run(run).unwrap().text(), "hello");
        let error = connect(&description, "b").err().unwrap();
        assert_eq!(error.to_string(), "no host b; there are: a");
    }
}
