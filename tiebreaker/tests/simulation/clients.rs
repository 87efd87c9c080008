//! Two sites and an operator that want much at once, know little for certain, and ask again.

use std::collections::BTreeMap;

use antipode_certs::{Identity, Name};
use antipode_tiebreaker::node::{Demand, Query, Reply};
use antipode_tiebreaker::{
    Boot, Flush, Generation, Hold, Operation, PairingId, Position, Reason, Request, RequestId, State,
};

use super::history::{Deed, What};
use super::random::Random;

/// Moments after which a client asks another node.
const PATIENCE: u64 = 120;
const TRIES_MAX: u32 = 8;

#[derive(Debug)]
struct Flight {
    deed: usize,
    demand: Demand,
    sent_at: u64,
    tries: u32,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) identity: Identity,
    last_id: u64,
    known: BTreeMap<Name, (Generation, Option<State>)>,
    flight: Option<Flight>,
    /// Names the try under way: the reply to an earlier one is late.
    pub(crate) attempt: u64,
    rests_until: u64,
    target: usize,
}

/// What a client sends: to which node, what.
pub(crate) type Sending = (usize, Demand);

impl Client {
    pub(crate) fn new(uri: &str) -> Self {
        Self {
            identity: Identity::from_uri(uri).unwrap(),
            last_id: 0,
            known: BTreeMap::new(),
            flight: None,
            attempt: 0,
            rests_until: 0,
            target: 0,
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flight.is_none()
    }

    /// What it does at `now`, if anything; a new deed goes to `deeds`.
    pub(crate) fn act(
        &mut self,
        now: u64,
        vms: &[Name],
        deeds: &mut Vec<Deed>,
        random: &mut Random,
    ) -> Option<Sending> {
        if let Some(flight) = &mut self.flight {
            if now - flight.sent_at < PATIENCE {
                return None;
            }
            return self.again(now, None, random);
        }
        if now < self.rests_until {
            return None;
        }
        let vm = &vms[random.index(vms.len())];
        let what = if random.permille(250) {
            None
        } else {
            Some(self.request(vm, random))
        };
        Some(self.begin(now, vm, what, deeds))
    }

    pub(crate) fn begin(
        &mut self,
        now: u64,
        vm: &Name,
        change: Option<Request>,
        deeds: &mut Vec<Deed>,
    ) -> Sending {
        let (demand, what) = match change {
            None => {
                let query = Query::Show { vm: vm.clone() };
                (Demand::Read(query), What::Read(None))
            }
            Some(request) => {
                let demand = Demand::Change {
                    vm: vm.clone(),
                    request: request.clone(),
                };
                (demand, What::Change(self.identity.clone(), request, None))
            }
        };
        self.flight = Some(Flight {
            deed: deeds.len(),
            demand: demand.clone(),
            sent_at: now,
            tries: 1,
        });
        deeds.push(Deed {
            vm: vm.clone(),
            asked: now,
            answered: None,
            what,
        });
        self.attempt += 1;
        (self.target, demand)
    }

    /// The same to another node; or none, when it has had enough.
    fn again(&mut self, now: u64, hint: Option<usize>, random: &mut Random) -> Option<Sending> {
        let flight = self.flight.as_mut()?;
        if flight.tries >= TRIES_MAX {
            self.flight = None;
            self.rests_until = now + random.below(100);
            return None;
        }
        flight.tries += 1;
        flight.sent_at = now;
        self.target = hint.unwrap_or_else(|| random.index(3));
        self.attempt += 1;
        Some((self.target, flight.demand.clone()))
    }

    /// Takes the reply to the try under way; what it does then.
    pub(crate) fn hear(
        &mut self,
        now: u64,
        reply: Reply,
        slot_of: impl Fn(&Name) -> usize,
        deeds: &mut [Deed],
        random: &mut Random,
    ) -> Option<Sending> {
        let flight = self.flight.as_ref()?;
        let deed = &mut deeds[flight.deed];
        match (reply, &mut deed.what) {
            (Reply::Answer(answer), What::Change(_, _, told)) => {
                self.known
                    .insert(deed.vm.clone(), (answer.generation, answer.state.clone()));
                *told = Some(answer);
            }
            (Reply::Record(record), What::Read(told)) => {
                let record = record.map(|record| *record);
                let known = record.as_ref().map_or((Generation::NONE, None), |record| {
                    (record.generation, Some(record.state.clone()))
                });
                self.known.insert(deed.vm.clone(), known);
                *told = record;
            }
            (Reply::NotLeader(leader), _) => {
                let hint = leader.as_ref().map(slot_of);
                return self.again(now, hint, random);
            }
            (Reply::Busy | Reply::Unknown, _) => return self.again(now, None, random),
            (Reply::PeerReachable { .. } | Reply::Forbidden(_), _) => {
                self.flight = None;
                return None;
            }
            (other, _) => panic!("{other:?} is no reply to {:?}", flight.demand),
        }
        deed.answered = Some(now);
        self.flight = None;
        self.rests_until = now + random.below(60);
        None
    }

    fn request(&mut self, vm: &Name, random: &mut Random) -> Request {
        let (generation, state) = self.known.get(vm).cloned().unwrap_or((Generation::NONE, None));
        self.last_id += 1;
        Request {
            id: RequestId(self.last_id),
            expected: generation,
            operation: match self.identity.role {
                antipode_certs::Role::Operator => operators(random),
                _ => self.sites(state.as_ref(), random),
            },
            at_unix_seconds: 0,
        }
    }

    /// Mostly what makes sense in the state that it knows.
    fn sites(&self, state: Option<&State>, random: &mut Random) -> Operation {
        let boot = Boot(1 + random.below(3));
        let own = &self.identity.name;
        let other: Name = if own.as_str() == "a" { "b" } else { "a" }.parse().unwrap();
        let new = PairingId(self.last_id * 4 + u64::from(own.as_str() == "b"));
        match state {
            None | Some(State::Retired) => Operation::Register { boot },
            Some(State::Solo {
                site,
                boot: Some(held),
            }) if site == own => match random.below(8) {
                0 => Operation::CancelPair { boot: *held },
                1 => Operation::Park {
                    hold: Hold::Boot(*held),
                    position: Position(random.below(9)),
                },
                _ => Operation::Pair {
                    boot: *held,
                    backup: other,
                    pairing: new,
                    flush: Flush::Site,
                },
            },
            Some(State::Paired { primary, pairing, .. }) => match random.below(6) {
                0 if primary == own => Operation::Swap {
                    pairing: *pairing,
                    turned: new,
                },
                1 if primary == own => Operation::Park {
                    hold: Hold::Pairing(*pairing),
                    position: Position(random.below(9)),
                },
                _ => Operation::Claim {
                    pairing: *pairing,
                    boot,
                },
            },
            Some(_) => Operation::ColdStart { boot },
        }
    }
}

fn operators(random: &mut Random) -> Operation {
    let reason = Reason::new("the simulator says so").unwrap();
    let site: Name = if random.permille(500) { "a" } else { "b" }.parse().unwrap();
    match random.below(8) {
        0 => Operation::Retire { reason },
        1 | 2 => Operation::Force { site, reason },
        _ => Operation::Configure {
            preferred: Some(site),
            flush: Flush::Site,
        },
    }
}
