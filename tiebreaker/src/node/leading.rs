//! What a leader does besides consensus: it guards what a record cannot know, tends the membership, and hands over.

use antipode_certs::{Identity, Name};
use raft::eraftpb::{ConfChange, ConfChangeType};

use super::core::Node;
use super::event::Reply;
use super::seats::NodeId;
use super::status::{self, Standing};
use crate::limits::{ELECTION_TICKS, LOG_CUT_EVERY, RECORDS_MAX};
use crate::{Operation, Request};

impl Node {
    /// What stands against `request` besides the record: room, and of an override a site that is in touch (T4).
    pub(super) fn guard(&self, vm: &Name, request: &Request) -> Option<Reply> {
        let records = &self.machine().records;
        let guarded = matches!(
            request.operation,
            Operation::Register { .. } | Operation::Force { .. }
        );
        if guarded && !self.knows_what_is_committed() {
            return Some(Reply::Busy);
        }
        match (&request.operation, records.get(vm)) {
            (Operation::Register { .. }, None) if records.len() >= RECORDS_MAX => {
                Some(Reply::Forbidden(format!("there are {RECORDS_MAX} VMs already")))
            }
            // An old generation is refused anyway, and the record says why, or what a copy of the request was told. Not
            // so one that seems too new: what makes it the present one may be on its way.
            (Operation::Force { site, .. }, Some(record)) if request.expected >= record.generation => {
                let in_touch = |other: &&Name| {
                    let since = self.heard.get(*other).copied().max(self.leading_since);
                    since.is_none_or(|since| self.ticks - since < self.settings.site_silent_ticks)
                };
                let other = record
                    .state
                    .sites()
                    .into_iter()
                    .filter(|other| *other != site)
                    .find(in_touch)?;
                Some(Reply::PeerReachable { site: other.clone() })
            }
            _ => None,
        }
    }

    /// Whether the state in memory has all that any leader has answered. A new leader has it once it has committed in its
    /// own term; before, a guard would refuse by a record of the past what may be granted already.
    fn knows_what_is_committed(&self) -> bool {
        self.raw.raft.commit_to_current_term() && self.raw.store().applied == self.raw.raft.raft_log.committed
    }

    /// A seat is given anew if its node does not answer, and to nobody but who has its name.
    pub(super) fn guard_seat(&self, from: &Identity) -> Option<Reply> {
        let Some(id) = self.seats().id_of(&from.name) else {
            let names: Vec<&str> = self.seats().iter().map(|(name, _)| name.as_str()).collect();
            return Some(Reply::Forbidden(format!(
                "this cluster's nodes are {}",
                names.join(", ")
            )));
        };
        // Not what raft-rs knows: it forgets who is active from time to time, and whoever asks again and again finds that
        // moment.
        let long_ago = |tick: u64| self.ticks - tick >= 2 * ELECTION_TICKS as u64;
        let answers = self.spoke.get(&id).is_some_and(|tick| !long_ago(*tick));
        let early = self.leading_since.is_none_or(|since| !long_ago(since));
        if id.0 == self.raw.raft.id || answers {
            Some(Reply::SeatTaken)
        } else if early {
            Some(Reply::Busy)
        } else {
            None
        }
    }

    /// Brings the membership one step nearer to what the seats say.
    pub(super) fn tend_membership(&mut self) {
        if self.raw.raft.has_pending_conf() {
            return;
        }
        let log = self.raw.store();
        let (present, seats) = (&log.conf_state, &log.machine.seats);
        let wanted: Vec<NodeId> = seats.iter().map(|(_, id)| id).collect();
        let members = present
            .voters
            .iter()
            .chain(&present.learners)
            .copied()
            .map(NodeId);
        // raft-rs still probes a node that has all it needs, until the next entry; so its state is not asked for.
        let caught_up = |id: &NodeId| {
            let progress = self.raw.raft.prs().get(id.0);
            progress.is_some_and(|it| {
                it.recent_active && it.matched > 0 && it.matched + LOG_CUT_EVERY >= log.last()
            })
        };
        let superfluous = members.clone().find(|id| !wanted.contains(id));
        let missing = wanted
            .iter()
            .copied()
            .find(|id| status::standing(present, *id) == Standing::Outside);
        let grown = wanted
            .iter()
            .copied()
            .find(|id| status::standing(present, *id) == Standing::Learner && caught_up(id));
        let change = superfluous
            .map(|id| (id, ConfChangeType::RemoveNode))
            .or(missing.map(|id| (id, ConfChangeType::AddLearnerNode)))
            .or(grown.map(|id| (id, ConfChangeType::AddNode)));
        if let Some((id, kind)) = change {
            let change = ConfChange {
                node_id: id.0,
                change_type: kind,
                ..ConfChange::default()
            };
            // Refused while another change is under way: the next heartbeat tries again.
            let _ = self.raw.propose_conf_change(Vec::new(), change);
        }
    }

    /// Lets a node of higher priority lead, if one is there and has everything.
    pub(super) fn hand_over(&mut self) {
        let settled = self
            .leading_since
            .is_some_and(|since| self.ticks - since >= ELECTION_TICKS as u64);
        let log = self.raw.store();
        let priority = |name: &Name| self.settings.priorities.get(name).copied().unwrap_or(0);
        let own = priority(&self.settings.name);
        let better = log.machine.seats.iter().filter(|(name, id)| {
            let progress = self.raw.raft.prs().get(id.0);
            priority(name) > own
                && log.conf_state.voters.contains(&id.0)
                && progress
                    .is_some_and(|it| it.recent_active && it.matched >= self.raw.raft.raft_log.committed)
        });
        let best = better.max_by_key(|(name, _)| priority(name)).map(|(_, id)| id);
        if let Some(id) = best.filter(|_| settled && self.proposed.is_empty()) {
            self.raw.transfer_leader(id.0);
        }
    }
}
