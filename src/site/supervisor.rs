//! The supervisor of a site: it starts VM processes and finds those again that run (P10). It holds no VM itself, so that
//! it can end, fail and begin anew while they go on.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use antipode_certs::tls::LiveCredentials;
use antipode_certs::{Identity, Name, PeerRule, Role, WallClock};
use antipode_disk_sync::protocol::Link;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::SiteConfig;
use super::guest::happening::Request;
use super::guest::refusals::{Fault, Refusals};
use super::peer::{self, Answer, Prepare, Prepared, Question, Unready};
use super::store::VmFolder;
use super::{control, definition};
use crate::base::callers::take_calls;
use crate::base::clock::wall_clock_unix_seconds;
use crate::base::limits::SITE_MESSAGE_BYTES_MAX;
use crate::machine::probe::HostKind;

/// Calls of the other site that are served at a time, or have not yet proven whose they are; further ones are closed.
const CALLS_MAX: usize = 16;
/// How long a VM's process may take until it can be asked.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// What the supervisor is asked for at its control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum SiteRequest {
    /// Take a VM into the site's state.
    Create {
        /// Its name.
        name: String,
        /// The file that describes it.
        vm: PathBuf,
    },
    /// Start a VM's process, and in it the VM.
    Start {
        /// Its name.
        name: String,
    },
    /// Protect a VM by the site that the configuration names now.
    Replace {
        /// Its name.
        name: String,
    },
    /// Name the VMs.
    List,
}

/// A site's supervisor.
#[derive(Debug)]
pub struct Supervisor {
    config: SiteConfig,
    config_path: PathBuf,
    credentials: Arc<LiveCredentials>,
    refusals: Mutex<Refusals>,
}

impl Supervisor {
    /// Of the site that the file at `path` describes.
    ///
    /// # Errors
    /// In words, what is in the way.
    pub fn new(config: SiteConfig, path: &Path, clock: Arc<dyn WallClock>) -> Result<Self, String> {
        let rule = PeerRule::AnyOf(Role::ALL.to_vec());
        let credentials = LiveCredentials::open(config.credentials.clone(), &rule, clock);
        std::fs::create_dir_all(&config.state)
            .map_err(|error| format!("{}: {error}", config.state.display()))?;
        Ok(Self {
            credentials: credentials.map_err(|error| error.to_string())?,
            config_path: std::fs::canonicalize(path).map_err(|error| error.to_string())?,
            config,
            refusals: Mutex::default(),
        })
    }

    /// Serves for as long as the process lives. `ready` is called when it can be asked.
    ///
    /// # Errors
    /// In words, what is in the way.
    pub fn serve(self, ready: impl FnOnce()) -> Result<(), String> {
        let listen = self.config.listen;
        let peers = TcpListener::bind(listen).map_err(|error| format!("listening on {listen}: {error}"))?;
        let socket =
            control::listen(&self.config.state.join("control.sock")).map_err(|error| error.to_string())?;
        ready();
        let supervisor = Arc::new(self);
        let for_peers = Arc::clone(&supervisor);
        let serving = std::thread::Builder::new().name("peers".into()).spawn(move || {
            take_calls(&peers, CALLS_MAX, move |stream, from| {
                if let Err(fault) = for_peers.serve_peer(stream) {
                    tracing::warn!(%from, "a call of another site: {}", fault.why);
                    for_peers.refused(&fault);
                }
            })
        });
        serving.map_err(|error| error.to_string())?;
        let for_vms = Arc::clone(&supervisor);
        let resuming = std::thread::Builder::new()
            .name("resume".into())
            .spawn(move || for_vms.resume());
        resuming.map_err(|error| error.to_string())?;
        for stream in socket.incoming() {
            let stream = stream.map_err(|error| error.to_string())?;
            let supervisor = Arc::clone(&supervisor);
            let answering = std::thread::Builder::new().spawn(move || {
                if let Err(error) = supervisor.answer(&stream) {
                    tracing::debug!(%error, "a question on the control socket");
                }
            });
            answering.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Goes on with what ran before an outage and was not stopped (P8). A VM whose process runs needs nothing; whether this
    /// site may start one of the others, the tiebreaker says.
    fn resume(&self) {
        let names = VmFolder::all(&self.config.state).unwrap_or_else(|error| {
            tracing::error!(%error, "what VMs there are cannot be read");
            Vec::new()
        });
        for name in names {
            let folder = VmFolder::of(&self.config.state, &name);
            let runs = folder.intent().map(|intent| intent.runs);
            if control::ask(&folder.control(), &Request::Status).is_ok() || matches!(runs, Ok(false)) {
                continue;
            }
            tracing::info!(
                vm = name,
                "it ran when this site was lost: it is started, if the tiebreaker grants it"
            );
            let resumed = runs
                .map_err(|error| error.to_string())
                .and_then(|_| {
                    self.ensure_process(&name, None)
                        .map_err(|unready| unready.to_string())
                })
                .and_then(|_| {
                    control::ask(&folder.control(), &Request::Resume).map_err(|error| error.to_string())
                });
            match resumed {
                Ok(answer) if answer["ok"] == true => {}
                Ok(answer) => tracing::warn!(vm = name, "it is not started: {}", answer["error"]),
                Err(why) => tracing::warn!(vm = name, "it is not started: {why}"),
            }
        }
    }

    fn answer(&self, stream: &UnixStream) -> std::io::Result<()> {
        let mut line = String::new();
        BufReader::new(stream.take(SITE_MESSAGE_BYTES_MAX as u64)).read_line(&mut line)?;
        let answer = match serde_json::from_str(&line) {
            Ok(request) => self
                .done(&request)
                .unwrap_or_else(|why| json!({ "ok": false, "error": why })),
            Err(error) => json!({ "ok": false, "error": error.to_string() }),
        };
        let mut stream = stream;
        writeln!(stream, "{answer}")
    }

    fn done(&self, request: &SiteRequest) -> Result<Value, String> {
        match request {
            SiteRequest::Create { name, vm } => {
                let folder = VmFolder::of(&self.config.state, name);
                if folder.definition().exists() {
                    return Err(format!("there is a VM {name} already"));
                }
                definition::adopt(&folder, vm)?;
                Ok(json!({ "ok": true }))
            }
            SiteRequest::Start { name } => {
                let folder = VmFolder::of(&self.config.state, name);
                if !folder.definition().exists() {
                    return Err(format!(
                        "there is no VM {name} here; `antipode vm create` makes it known"
                    ));
                }
                self.ensure_process(name, None)
                    .map_err(|unready| unready.to_string())?;
                control::ask(&folder.control(), &Request::Start).map_err(|error| error.to_string())
            }
            SiteRequest::Replace { name } => {
                let folder = VmFolder::of(&self.config.state, name);
                let replace = Request::Replace {
                    peer: self.config.peer.clone(),
                    address: self.config.peer_address.clone(),
                };
                control::ask(&folder.control(), &replace)
                    .map_err(|error| format!("VM {name} has no process here: {error}"))
            }
            SiteRequest::List => {
                let names = VmFolder::all(&self.config.state).map_err(|error| error.to_string())?;
                let vms: Vec<Value> = names.iter().map(|name| self.shown(name)).collect();
                Ok(json!({ "ok": true, "vms": vms, "refused": self.refusals().shown() }))
            }
        }
    }

    fn shown(&self, name: &str) -> Value {
        let folder = VmFolder::of(&self.config.state, name);
        control::ask(&folder.control(), &Request::Status)
            .unwrap_or_else(|_| json!({ "vm": name, "role": "stopped", "green": false }))
    }

    /// Starts the VM's process if none runs, and waits until it can be asked.
    fn ensure_process(&self, name: &str, join: Option<&Prepare>) -> Result<Value, Unready> {
        let folder = VmFolder::of(&self.config.state, name);
        match (role_of(&folder), join) {
            (Some(role), _) if is_over(&role) => end(&folder).map_err(Unready::Failed)?,
            (Some(role), Some(join)) => return Err(busy(&join.vm, role)),
            _ => {}
        }
        if control::ask(&folder.control(), &Request::Ports).is_err() {
            self.spawn(name, join).map_err(Unready::Failed)?;
        }
        control::until(READY_PATIENCE, || {
            control::ask(&folder.control(), &Request::Ports).ok()
        })
        .ok_or_else(|| {
            Unready::Failed(format!(
                "the VM's process does not answer; see {}",
                folder.file("log").display()
            ))
        })
    }

    fn spawn(&self, name: &str, join: Option<&Prepare>) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the VM's process cannot be started: {error}");
        let folder = VmFolder::of(&self.config.state, name);
        folder.make().map_err(failed)?;
        let open = |name: &str| -> std::io::Result<File> {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(folder.file(name))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["site", "vm", "--name", name, "--log", "info", "--config"])
            .arg(&self.config_path)
            .stdin(Stdio::null())
            .stdout(open("console").map_err(failed)?)
            .stderr(open("log").map_err(failed)?)
            // A signal to the supervisor's group is none to its VMs.
            .process_group(0);
        if let Some(join) = join {
            command
                .arg("--join")
                .arg(serde_json::to_string(join).map_err(|error| error.to_string())?);
        }
        let mut child = command.spawn().map_err(failed)?;
        let name = name.to_owned();
        let waiting = std::thread::Builder::new().spawn(move || match child.wait() {
            Ok(status) => tracing::info!(vm = name, %status, "a VM's process has ended"),
            Err(error) => tracing::warn!(vm = name, %error, "a VM's process is lost"),
        });
        waiting.map(drop).map_err(failed)
    }

    fn serve_peer(&self, stream: TcpStream) -> Result<(), Fault> {
        let rule = PeerRule::Exactly(Identity {
            role: Role::Site,
            name: self.config.peer.clone(),
        });
        let link = Link::accept(stream, &self.credentials, rule).map_err(|error| Fault::from(&error))?;
        let (mut reader, mut writer) = link.into_streams();
        let answer = match peer::take(&mut reader).map_err(Fault::failed)? {
            Question::IsFree { vm } => self.is_free(&vm).map(|()| Answer::Free),
            Question::Prepare { prepare, host } => self
                .prepare(&prepare, &host)
                .inspect_err(|unready| {
                    self.refused(&Fault {
                        refusal: unready.name(),
                        why: format!("VM {}: {unready}", prepare.vm),
                    });
                })
                .map(Answer::Prepared),
        };
        peer::put(&mut writer, &answer).map_err(Fault::failed)
    }

    fn refused(&self, fault: &Fault) {
        self.refusals().note(wall_clock_unix_seconds(), fault);
    }

    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a copy of `vm` may come: none is here, or it has come to its end.
    fn is_free(&self, vm: &Name) -> Result<(), Unready> {
        match role_of(&VmFolder::of(&self.config.state, vm.as_str())) {
            Some(role) if !is_over(&role) => Err(busy(vm, role)),
            _ => Ok(()),
        }
    }

    fn prepare(&self, prepare: &Prepare, host: &HostKind) -> Result<Prepared, Unready> {
        let here = HostKind::of_this_host().map_err(|error| Unready::Failed(error.to_string()))?;
        let differences = here.differences(host, &self.config.allowed_differences);
        if !differences.is_empty() {
            return Err(Unready::HostsDiffer(differences));
        }
        let ports = self.ensure_process(prepare.vm.as_str(), Some(prepare))?;
        serde_json::from_value(ports).map_err(|error| Unready::Failed(error.to_string()))
    }
}

/// What the VM's process says it is; none if there is no process.
fn role_of(folder: &VmFolder) -> Option<String> {
    let status = control::ask(&folder.control(), &Request::Status).ok()?;
    Some(status["role"].as_str().unwrap_or_default().to_owned())
}

/// Whether a process of this role only shows what became of its VM.
fn is_over(role: &str) -> bool {
    matches!(role, "stale" | "stopped" | "idle")
}

fn busy(vm: &Name, role: String) -> Unready {
    Unready::Busy { vm: vm.clone(), role }
}

/// Ends a process that only shows what became of its VM.
fn end(folder: &VmFolder) -> Result<(), String> {
    let is_gone = || {
        control::ask(&folder.control(), &Request::End)
            .is_err()
            .then_some(())
    };
    control::until(READY_PATIENCE, is_gone).ok_or_else(|| "the VM's old process does not end".to_owned())
}
