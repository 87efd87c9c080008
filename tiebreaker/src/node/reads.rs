//! Reads that wait for a majority to confirm that this node still leads.
//!
//! ```text
//!   asked ──▶ waiting ──confirm: one round for all of them──▶ asked of the others ──▶ confirmed at index i
//!                                                                                        │ applied ≥ i
//!                                                                                        ▼
//!                                                                                     answered
//! ```
//!
//! A round whose messages are lost is asked again with the next heartbeat: its reads go back to those that wait, so they
//! are never answered by a confirmation that is older than they are.

use super::event::{Query, Ticket};

#[derive(Debug, Default)]
pub(super) struct Reads {
    /// Asked, in no round yet.
    waiting: Vec<(Ticket, Query)>,
    /// In the round under way.
    asked: Vec<(Ticket, Query)>,
    /// The number of the round under way, or of the last one.
    round: u64,
    /// Confirmed at an index.
    confirmed: Vec<(u64, Ticket, Query)>,
}

impl Reads {
    pub(super) fn count(&self) -> usize {
        self.waiting.len() + self.asked.len() + self.confirmed.len()
    }

    pub(super) fn ask(&mut self, ticket: Ticket, query: Query) {
        self.waiting.push((ticket, query));
    }

    /// Opens a round for what waits, if none is under way; the answer names it.
    pub(super) fn open_round(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || !self.asked.is_empty() {
            return None;
        }
        self.round += 1;
        self.asked = std::mem::take(&mut self.waiting);
        Some(self.round.to_be_bytes().to_vec())
    }

    /// Gives up the round under way: what it asked for waits again.
    pub(super) fn close_round(&mut self) {
        let again = std::mem::take(&mut self.asked);
        self.waiting.splice(0..0, again);
    }

    /// The round `name` was confirmed at `index`.
    pub(super) fn confirm(&mut self, name: &[u8], index: u64) {
        if name == self.round.to_be_bytes() {
            let confirmed = std::mem::take(&mut self.asked);
            self.confirmed.extend(
                confirmed
                    .into_iter()
                    .map(|(ticket, query)| (index, ticket, query)),
            );
        }
    }

    /// Those that the state up to `applied` can answer.
    pub(super) fn take_ready(&mut self, applied: u64) -> Vec<(Ticket, Query)> {
        let (ready, rest) = std::mem::take(&mut self.confirmed)
            .into_iter()
            .partition::<Vec<_>, _>(|(index, ..)| *index <= applied);
        self.confirmed = rest;
        ready
            .into_iter()
            .map(|(_, ticket, query)| (ticket, query))
            .collect()
    }

    /// All of them, given up.
    pub(super) fn take_all(&mut self) -> Vec<Ticket> {
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let asked = std::mem::take(&mut self.asked).into_iter();
        let confirmed = std::mem::take(&mut self.confirmed).into_iter();
        waiting
            .chain(asked)
            .map(|(ticket, _)| ticket)
            .chain(confirmed.map(|(_, ticket, _)| ticket))
            .collect()
    }
}
