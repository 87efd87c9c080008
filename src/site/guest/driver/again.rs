//! What outlives a VM's process, and protection that restores itself.

use antipode_tiebreaker::PairingId;

use super::super::happening::Happening;
use super::Driver;
use super::operator::draw_number;
use crate::protocol::reprotect::{Called, Deed, Seen};
use crate::protocol::role::{Cause, Command, Phase};
use crate::protocol::status::because;
use crate::site::peer::Caller;
use crate::site::store::Intent;

impl Driver {
    /// Now and then: is the VM to be protected again, and is there something to note?
    pub(super) fn watch_protection(&mut self) {
        let now = self.moment();
        let cause = self.parts.role.view().cause;
        let words = cause.map(|cause| because(cause, self.trouble.as_deref()));
        let seen = Seen {
            phase: self.parts.role.phase(),
            is_free: self.parts.role.may_protect(),
            is_by_command: cause == Some(Cause::Unprotected),
            because: words.as_deref().unwrap_or("it was not protected"),
        };
        let deed = self.reprotect.step(now, &seen);
        self.do_deed(deed);
        self.note_intent();
    }

    pub(super) fn called(&mut self, number: u64, said: Called) {
        let now = self.moment();
        let deed = self.reprotect.called(now, number, said);
        self.do_deed(deed);
    }

    fn do_deed(&mut self, deed: Option<Deed>) {
        match deed {
            None => {}
            Some(Deed::Call(number)) => {
                let (caller, vm) = (self.caller(), self.parts.name.clone());
                let happenings = self.parts.happenings.clone();
                tokio::task::spawn_blocking(move || {
                    // Without a driver nobody waits.
                    let _ = happenings.send(Happening::Called(number, caller.call(&vm)));
                });
            }
            Some(Deed::Protect) => {
                tracing::info!("the other site is there: the VM is protected again");
                let pairing = PairingId(draw_number());
                self.command(Command::Protect { pairing });
            }
        }
    }

    /// The way to the other site's supervisor.
    pub(super) fn caller(&self) -> Caller {
        Caller {
            address: self.parts.config.peer_address.clone(),
            peer: self.parts.config.peer.clone(),
            credentials: std::sync::Arc::clone(&self.parts.credentials),
        }
    }

    /// Two copies in lockstep write alike. At any other time one of them may come to lack what is written here (D4).
    pub(super) fn tell_disk_of_doubt(&self) {
        if let Some(disk) = self.disk() {
            disk.doubt_peer(!matches!(self.parts.role.phase(), Phase::Primary | Phase::Backup));
        }
    }

    /// Notes what is to become of the VM after an outage, if that has changed.
    fn note_intent(&mut self) {
        let phase = self.parts.role.phase();
        let is_stopped = phase == Phase::Stopped && self.parts.role.view().cause == Some(Cause::Stopped);
        let runs = match phase {
            phase if phase.is_live() || phase == Phase::Backup => true,
            _ if is_stopped => false,
            _ => self.intent.runs,
        };
        let intent = Intent {
            runs,
            is_protected: self.reprotect.wanted(),
        };
        if intent == self.intent {
            return;
        }
        self.intent = intent;
        if let Err(error) = self.parts.folder.intend(&intent) {
            tracing::error!(%error, "what is to become of the VM after an outage cannot be noted");
        }
    }
}
