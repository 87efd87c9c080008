//! What must hold at every moment.

use std::collections::BTreeSet;

use antipode_tiebreaker::{Boot, PairingId, Record, State};

use super::world::site_name;
use crate::protocol::role::Replica;

/// A rule of T3 that was broken, or the end that was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
    /// Outputs of two sites are open at once.
    TwoOpen,
    /// A site opened its outputs, alone, though the record does not have it so.
    OpenUnwon,
    /// Whoever went live lacks an output that a client has seen.
    OutputLost,
    /// Clients saw two histories.
    TwoHistories,
    /// The guest was told that its disk is durable, which waits for both, and the other one is not.
    FlushLost,
    /// A site went live from a replica that was behind or half made.
    LiveFromStale,
    /// A site went on in a turned pairing that was never granted.
    LedUngranted,
    /// A VM whose protection an operator has ended was protected again by itself.
    ProtectedUnasked,
    /// An output left, which waits until the copy has made it, and it has not.
    Unverified,
    /// All was healed, and the VM was not protected within a minute.
    NeverProtected,
}

/// A guest's outputs so far. Each entry stands for itself and all before it.
pub(super) type History = Vec<u64>;

/// Judges what happens.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// What clients have seen.
    shown: History,
    /// A site that an operator has put in, and that has not started.
    forced: Option<usize>,
    /// Who leads in which turned pairing, as it was granted.
    swapped: BTreeSet<(usize, u64)>,
    /// Sites where an operator has ended the protection of what runs there.
    ended: BTreeSet<usize>,
    /// What copies have made.
    copied: BTreeSet<u64>,
    /// The first harm.
    pub(super) harm: Option<Harm>,
    /// All kinds of it.
    pub(super) found: BTreeSet<Harm>,
}

impl Checker {
    pub(super) fn blame(&mut self, harm: Harm) {
        self.harm.get_or_insert(harm);
        self.found.insert(harm);
    }

    /// An operator says that this site starts with what it has: what it lacks is lost by that word.
    pub(super) const fn forces(&mut self, site: usize) {
        self.forced = Some(site);
    }

    /// An operator ends the protection of what runs at `site`, or asks for it.
    pub(super) fn commands(&mut self, site: usize, protection: bool) {
        if protection {
            self.ended.remove(&site);
        } else {
            self.ended.insert(site);
        }
    }

    /// Whether an operator has ended the protection of what runs at `site`.
    pub(super) fn is_ended(&self, site: usize) -> bool {
        self.ended.contains(&site)
    }

    /// A site protects what runs there by itself.
    pub(super) fn protects(&mut self, site: usize) {
        if self.ended.contains(&site) {
            self.blame(Harm::ProtectedUnasked);
        }
    }

    /// A site starts to run the guest with this history.
    pub(super) fn goes_live(&mut self, site: usize, history: &[u64], replica: Replica) {
        if self.forced.take_if(|forced| *forced == site).is_some() {
            self.shown = history.to_vec();
        }
        let holds_all = self.shown.len() <= history.len()
            && self
                .shown
                .last()
                .is_none_or(|last| history[self.shown.len() - 1] == *last);
        if !holds_all {
            self.blame(Harm::OutputLost);
        }
        if replica != Replica::Clean {
            self.blame(Harm::LiveFromStale);
        }
    }

    /// A `swap` was granted, by which `site` leads.
    pub(super) fn swapped(&mut self, site: usize, turned: PairingId) {
        self.swapped.insert((site, turned.0));
    }

    /// A site goes on in place of the other one, in the turned pairing.
    pub(super) fn leads(&mut self, site: usize, turned: PairingId) {
        if !self.swapped.contains(&(site, turned.0)) {
            self.blame(Harm::LedUngranted);
        }
    }

    /// A guest whose flushes wait for `other`, the disk of the other site, is told that all of `history` is durable.
    pub(super) fn flushed(&mut self, history: &[u64], other: &[u64]) {
        if !other.starts_with(history) {
            self.blame(Harm::FlushLost);
        }
    }

    /// A site opens its outputs. `renounced`: what the other one will never act in.
    pub(super) fn opens(
        &mut self,
        site: usize,
        boot: Boot,
        record: Option<&Record>,
        renounced: Option<PairingId>,
    ) {
        let own = site_name(site);
        let won = match record.map(|record| &record.state) {
            Some(State::Solo { site, boot: held }) => *site == own && *held == Some(boot),
            Some(State::Paired { primary, pairing, .. }) => *primary == own && renounced == Some(*pairing),
            // Its own park is granted and it does not know yet: what the stopped guest had still to say may leave,
            // since nobody else has a place in that record.
            Some(State::Parked { primary, backup, .. }) => *primary == own && backup.is_none(),
            _ => false,
        };
        if !won {
            self.blame(Harm::OpenUnwon);
        }
    }

    /// How many sites would show anything now.
    pub(super) fn open_sites(&mut self, count: usize) {
        if count > 1 {
            self.blame(Harm::TwoOpen);
        }
    }

    /// A copy has made this output.
    pub(super) fn copy_makes(&mut self, output: u64) {
        self.copied.insert(output);
    }

    /// An output leaves that waits until the copy has made it, or has come with it.
    pub(super) fn verified(&mut self, output: u64) {
        if !self.copied.contains(&output) {
            self.blame(Harm::Unverified);
        }
    }

    /// The last output of `history` leaves.
    pub(super) fn leaves(&mut self, history: &[u64]) {
        let common = history.len().min(self.shown.len());
        if common > 0 && history[common - 1] != self.shown[common - 1] {
            return self.blame(Harm::TwoHistories);
        }
        if history.len() > self.shown.len() {
            self.shown.extend_from_slice(&history[common..]);
        }
    }
}
