//! Protection that restores itself, as a driver has it.

use super::Flaw;
use super::world::{Happening, World};
use crate::protocol::reprotect::{Called, Deed, Seen};
use crate::protocol::role::{Cause, Command};

impl World {
    /// As the driver does after anything that happened.
    pub(super) fn watch_protection(&mut self, site: usize) {
        let now = self.moment_at(site);
        let flaw = self.flaw;
        let process = self.process(site);
        let seen = Seen {
            phase: process.role.phase(),
            is_free: process.role.may_protect(),
            is_by_command: process.role.view().cause == Some(Cause::Unprotected)
                && flaw != Flaw::ForgetUnprotect,
            because: "",
        };
        let deed = process.reprotect.step(now, &seen);
        self.hosts[site].is_protected = self.process(site).reprotect.wanted();
        self.protect_again(site, deed);
    }

    /// The other site's supervisor says whether it could take a copy.
    pub(super) fn called(&mut self, site: usize, number: u64, said: Called) {
        let now = self.moment_at(site);
        let deed = self.process(site).reprotect.called(now, number, said);
        self.protect_again(site, deed);
    }

    fn protect_again(&mut self, site: usize, deed: Option<Deed>) {
        let id = self.process(site).id;
        match deed {
            None => {}
            Some(Deed::Call(number)) => {
                let said = self.peer_says(site);
                let delay = self.random.between(20, 90);
                self.after(delay, Happening::Called(id, number, said));
            }
            Some(Deed::Protect) => {
                self.seen.insert("protected by itself");
                self.checker.protects(site);
                let pairing = self.new_pairing();
                self.command(site, Command::Protect { pairing });
            }
        }
    }

    fn peer_says(&self, site: usize) -> Called {
        let peer = &self.hosts[1 - site];
        let is_deaf = self.is_cut(0) || self.is_cut(1) || !peer.up || peer.frozen_until > self.now;
        let is_over = peer
            .process
            .as_ref()
            .is_none_or(|process| process.role.phase().is_terminal());
        match (is_deaf, is_over) {
            (true, _) => Called::Away(String::new()),
            (false, true) => Called::Free,
            (false, false) => Called::Busy(String::new()),
        }
    }
}
