//! The roles turn round (P7): the guest stands still, then one copy leads and the other follows, over the connection that
//! there is.

use std::sync::Arc;

use antipode_tiebreaker::PairingId;

use super::super::log_ends::Room;
use super::super::orders::Order;
use super::super::pair::LogEnd;
use super::Driver;
use crate::base::units::{ExitOrdinal, LogSeq};
use crate::channel::{Session, Side};
use crate::machine::started::Exits;
use crate::protocol::role::Event;

/// A guest that stands still, or is to.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// Where it stands.
    at: Option<ExitOrdinal>,
    /// When it stands it is to go on at once.
    goes_on: bool,
    /// The session that may follow.
    turned: Option<Session>,
}

impl Driver {
    pub(super) fn stand_still(&mut self) {
        self.standing = Standing::default();
        self.end_checkpoints();
        if let Some(running) = &self.running {
            running.handle.order(Order::StandStill);
        }
    }

    /// The guest stands still, this one or that of the copy.
    pub(super) fn stands(&mut self, position: ExitOrdinal) {
        self.standing.at = Some(position);
        let logged = match self.pair.as_ref().map(|pair| &pair.log) {
            Some(LogEnd::Sending { sender, .. }) => sender.last(),
            _ => LogSeq::NONE,
        };
        self.todo.push_back(Event::StoodStill { position, logged });
        if self.standing.goes_on {
            self.go_on_if_standing();
        }
        self.go_on_with_the_log();
    }

    pub(super) fn go_on(&mut self) {
        self.standing.goes_on = self.standing.at.is_none();
        self.go_on_if_standing();
    }

    pub(super) fn go_on_if_standing(&mut self) {
        if self.standing.at.is_some()
            && let Some(running) = &self.running
        {
            running.handle.order(Order::GoOn);
            self.standing = Standing::default();
        }
    }

    /// That there is more of the log says that the primary goes on.
    pub(super) fn go_on_with_the_log(&mut self) {
        if self
            .pair
            .as_ref()
            .is_some_and(super::super::pair::Pair::log_goes_on)
        {
            self.go_on_if_standing();
        }
    }

    /// The other end may soon speak in the turned session.
    pub(super) fn expect_turned(&mut self, pairing: PairingId) {
        let session = self.session(pairing);
        let generation = session.generation.next();
        self.standing.turned = Some(Session {
            generation,
            ..session
        });
        self.expect_turned_again();
    }

    /// The same, of a connection that is new.
    pub(super) fn expect_turned_again(&self) {
        let turning = self.pair.as_ref().and_then(|pair| pair.turning.as_ref());
        if let (Some(turned), Some(turning)) = (&self.standing.turned, turning) {
            turning.expect(turned);
        }
    }

    /// This copy leads from where it stands.
    pub(super) fn lead(&mut self, pairing: PairingId, flushes_wait: bool) {
        let session = self.session(pairing);
        let Some((position, handle)) = self.turns_at() else {
            return;
        };
        let Some(pair) = &mut self.pair else { return };
        let room = Arc::<Room>::default();
        let anchor = session.tag_bytes().to_vec();
        pair.turn(
            session.clone(),
            Side::Primary,
            LogEnd::sending_from(position, &room),
        );
        self.outputs.go_live();
        self.awaits_outside = true;
        if let Some(disk) = self.disk() {
            disk.flushes().tell_to(None);
            if flushes_wait {
                // The guest stands still, and its disk has done all that it was asked for.
                disk.flushes().close(position);
            }
        }
        self.keep_failures_back();
        handle.order(Order::Lead {
            anchor,
            room,
            flushes_wait,
        });
        if let Some(writer) = &mut self.writer {
            writer.turn(&session);
        }
        let now = self.now();
        self.figures.lockstep_begins(now);
        self.account_begins();
    }

    /// This copy follows from where it stands.
    pub(super) fn follow(&mut self, pairing: PairingId) {
        let session = self.session(pairing);
        let Some((position, handle)) = self.turns_at() else {
            return;
        };
        self.account = None;
        let Some(pair) = &mut self.pair else { return };
        // Whoever waits for room in the old log goes on.
        if let LogEnd::Sending { room, .. } = &pair.log {
            room.open();
        }
        let feeder = handle.follow(position);
        let log = LogEnd::following_from(position, &session.tag_bytes(), feeder, &self.parts.position);
        pair.turn(session.clone(), Side::Backup, log);
        if let Some(disk) = self.disk() {
            // What they wait for is on the other disk, and the log will tell of them.
            disk.flushes().open();
            disk.let_failures_go();
        }
        self.hear_flushes();
        // The VM is elsewhere now.
        self.announcements.clear();
        if let Some(writer) = &mut self.writer {
            writer.turn(&session);
        }
    }

    /// Where the guest stands, and the way to it.
    fn turns_at(&mut self) -> Option<(ExitOrdinal, super::Handle)> {
        let at = std::mem::take(&mut self.standing).at;
        let handle = self.running.as_ref().map(|running| running.handle.clone());
        let found = at.zip(handle);
        if found.is_none() {
            tracing::error!("the roles turn round, and the guest does not stand still");
            self.todo.push_back(Event::VmFailed);
        }
        found
    }

    /// The copy leads; its outputs leave through `exits`.
    pub(super) fn leads(&mut self, exits: Exits) {
        if let Some(running) = &mut self.running {
            running.exits = exits;
        }
        self.announce_from_now_on();
    }
}
