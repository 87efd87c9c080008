//! What an operator asks of a driver.

use antipode_certs::Name;
use antipode_disk_sync::disk;
use antipode_disk_sync::replica::State;
use antipode_tiebreaker::PairingId;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::happening::Request;
use super::Driver;
use crate::base::clock::{HostClock, SystemClock, wall_clock_unix_seconds};
use crate::machine::config;
use crate::machine::workers::HostEntropy;
use crate::protocol::role::{Command, Effect, Event, Phase, Replica};
use crate::protocol::status::{Measured, Status, Surroundings};

impl Driver {
    pub(super) fn asked(&mut self, request: Request, reply: oneshot::Sender<Value>) {
        let answer = match request {
            Request::Ports => {
                json!({ "ok": true, "log_port": self.parts.ports.0, "transfer_port": self.parts.ports.1 })
            }
            Request::Status => json!(self.status()),
            Request::Start => self.start(|replica| Command::Start { replica }),
            Request::Resume => self.start(|replica| Command::Resume { replica }),
            Request::Protect { discard } => self.protect(discard),
            Request::Replace { peer, address } => self.replace(peer, address),
            Request::Unprotect if self.parts.role.may_protect() && self.reprotect.unwanted() => {
                json!({ "ok": true })
            }
            Request::Unprotect => self.command(Command::Unprotect),
            Request::Stop => self.command(Command::Stop),
            Request::SwitchOver => {
                let turned = PairingId(draw_number());
                self.command(Command::SwitchOver { turned })
            }
            Request::Verify { cancel } => self.verify(cancel),
            Request::Stay => self.command(Command::Stay),
            Request::End => {
                self.is_over = true;
                json!({ "ok": true })
            }
        };
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    fn start(&mut self, command: impl FnOnce(Replica) -> Command) -> Value {
        match self.replica() {
            Ok(replica) => self.command(command(replica)),
            Err(why) => json!({ "ok": false, "error": why }),
        }
    }

    /// What is under way already, or done, is not begun again: who asks can watch it all the same.
    fn protect(&mut self, discard: bool) -> Value {
        let phase = self.parts.role.phase();
        let is_under_way = matches!(
            phase,
            Phase::Syncing | Phase::Cloning | Phase::Stunned | Phase::Pairing | Phase::Primary
        );
        if is_under_way && !discard {
            return json!({ "ok": true });
        }
        self.discards = discard;
        let pairing = PairingId(draw_number());
        let answer = self.command(Command::Protect { pairing });
        self.discards = false;
        answer
    }

    /// The site that is named in the configuration now, which may be another than when this process began, is the backup.
    fn replace(&mut self, peer: Name, address: String) -> Value {
        if !self.parts.role.may_protect() {
            let why = "the other site still has a place in the VM's protection, or is about to: `antipode vm unprotect` first";
            return json!({ "ok": false, "error": why });
        }
        tracing::info!(%peer, address, "the VM is protected by this site from now on");
        self.parts.role.replace_peer(peer.clone());
        self.parts.config.peer = peer;
        self.parts.config.peer_address = address;
        self.protect(false)
    }

    pub(super) fn command(&mut self, command: Command) -> Value {
        self.not_done = None;
        let effects = self.parts.role.step(self.moment(), Event::Command(command));
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Refuse(why) => Some(why.to_string()),
            _ => None,
        });
        for effect in effects {
            self.carry_out(effect);
        }
        match refused {
            Some(why) => json!({ "ok": false, "error": why }),
            None => json!({ "ok": true }),
        }
    }

    pub(super) fn status(&mut self) -> Status {
        let flushes_waited = |percent| self.disk().and_then(|disk| disk.flushes().waited(percent));
        let measured = Measured {
            flush_hold_p50: flushes_waited(50),
            flush_hold_p99: flushes_waited(99),
            ..self.figures.measured(self.now())
        };
        let refused = self.refusals.shown();
        let verification = self.verification();
        let around = Surroundings {
            vm: &self.parts.name,
            peer: &self.parts.config.peer,
            now: self.moment(),
            now_unix_seconds: wall_clock_unix_seconds(),
            trouble: self.trouble.as_deref(),
            not_done: self.not_done,
            resync: self.resync,
            memory_sent: self.memory_sent,
            protect_again: self.reprotect.shown(self.moment()),
            measured,
            verification: verification.as_ref(),
            repairs: self.repairing.shown(),
            output: self.repairing.output(),
            modes: self
                .account
                .as_ref()
                .map(|account| account.shown(self.keeping.cause())),
            refused: &refused,
        };
        Status::new(&self.parts.role.view(), around)
    }

    /// What this site's replica is. A VM without a disk has all that it needs.
    pub(super) fn replica(&self) -> Result<Replica, String> {
        let Some(paths) = self.replica_paths() else {
            return Ok(Replica::Clean);
        };
        match disk::state_of(&paths).map_err(|error| error.to_string())? {
            State::Clean => Ok(Replica::Clean),
            State::Stale => Ok(Replica::Stale),
            State::Syncing(_) => Ok(Replica::Syncing),
        }
    }

    pub(super) fn replica_paths(&self) -> Option<disk::Paths> {
        let config = config::load(&self.parts.folder.definition()).ok()?;
        let disk = config.disk?;
        Some(disk::Paths::new(disk.path, disk.metadata)).filter(|paths| paths.metadata.exists())
    }

    /// Changes what this site's replica is while no VM uses it.
    pub(super) fn on_idle_replica(
        &mut self,
        change: impl FnOnce(&disk::Paths) -> Result<(), disk::DiskError>,
    ) {
        let Some(paths) = self.replica_paths() else { return };
        match change(&paths) {
            // It is being filled, and says `syncing` until that is done.
            Ok(()) | Err(disk::DiskError::InUse(_)) => {}
            Err(error) => {
                tracing::error!(%error, "the replica's state could not be changed; this process ends");
                self.is_over = true;
            }
        }
    }
}

/// A number for a pairing, never drawn before.
pub(super) fn draw_number() -> u64 {
    HostEntropy::draw().map_or_else(
        |error| {
            tracing::error!(%error, "the host has no random bytes; the clock names the pairing");
            SystemClock.monotonic_ns()
        },
        u64::from_le_bytes,
    )
}
