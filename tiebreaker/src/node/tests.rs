//! The order of effects, the bounds of the log, seats, guards. What happens in a hostile world is in `tests/simulation`.

use std::collections::{BTreeMap, VecDeque};

use antipode_certs::{Identity, Name, Role};
use raft::eraftpb::{Entry, Message, MessageType};

use super::*;

mod hostile;

use crate::limits::{
    APPLIED_PER_MARK, ELECTION_TICKS, HEARTBEAT_MS, HEARTBEAT_MS_DEFAULT, HISTORY_MOVES_MAX,
    HISTORY_SETTINGS_MAX, LOG_CUT_EVERY, LOG_ENTRIES_KEPT, PATIENCE_STEP_TICKS, SITE_SILENT_MS,
    site_silent_ticks,
};
use crate::{
    Answer, Boot, Flush, Generation, Operation, PairingId, Reason, Record, Request, RequestId, State,
};

const SITE_SILENT_TICKS: u64 = site_silent_ticks(HEARTBEAT_MS_DEFAULT);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn identity(path: &str) -> Identity {
    Identity::from_uri(&format!("antipode://{path}")).unwrap()
}

fn settings(seat: &str, id: u64) -> NodeSettings {
    NodeSettings {
        name: name(seat),
        id: NodeId(id),
        era: 0,
        priorities: [(name("a"), 1), (name("b"), 1), (name("c"), 2)].into(),
        site_silent_ticks: SITE_SILENT_TICKS,
        seed: id,
    }
}

/// Three nodes that hear each other at once, and everything that they wanted done.
struct Cluster {
    nodes: Vec<Node>,
    done: Vec<Vec<Effect>>,
    replies: BTreeMap<Ticket, Reply>,
    tickets: u64,
}

impl Cluster {
    fn new() -> Self {
        let seats = Seats::first(["a", "b", "c"].map(name));
        let content = Recovered::first(seats, BTreeMap::new());
        let node = |(seat, id)| Node::new(settings(seat, id), content.clone());
        let mut cluster = Self {
            nodes: [("a", 1), ("b", 2), ("c", 3)].map(node).into(),
            done: Vec::new(),
            replies: BTreeMap::new(),
            tickets: 0,
        };
        cluster.wait(2 * ELECTION_TICKS as u64);
        cluster
    }

    fn wait(&mut self, ticks: u64) {
        for _ in 0..ticks {
            for index in 0..self.nodes.len() {
                self.step(index, Event::Tick);
            }
        }
    }

    fn step(&mut self, index: usize, event: Event) {
        let mut waiting = VecDeque::from([(index, event)]);
        while let Some((index, event)) = waiting.pop_front() {
            let effects = self.nodes[index].step([event]);
            for effect in &effects {
                match effect {
                    Effect::Send(messages) => waiting.extend(messages.iter().map(|message| {
                        let to = usize::try_from(message.to).unwrap() - 1;
                        (to, Event::Message(Box::new(message.clone())))
                    })),
                    Effect::Answer(ticket, reply) => {
                        assert!(self.replies.insert(*ticket, reply.clone()).is_none());
                    }
                    Effect::Persist(_) => {}
                    Effect::Refuse(from, why) => panic!("node {from} is refused: {why}"),
                    Effect::Halt(why) => panic!("{why}"),
                }
            }
            self.done.push(effects);
        }
    }

    fn leader(&self) -> usize {
        self.nodes.iter().position(Node::leads).unwrap()
    }

    /// The reply of node `to`, which must come at once.
    fn ask_node(&mut self, to: usize, from: &str, demand: Demand) -> Reply {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let request = Event::Request {
            ticket,
            from: identity(from),
            at_unix_seconds: 7,
            demand,
        };
        self.step(to, request);
        self.replies.remove(&ticket).unwrap()
    }

    fn ask(&mut self, from: &str, demand: Demand) -> Reply {
        self.ask_node(self.leader(), from, demand)
    }

    fn record(&mut self) -> Option<Record> {
        let query = Query::Show { vm: name("vm") };
        match self.ask("operator/o", Demand::Read(query)) {
            Reply::Record(record) => record.map(|record| *record),
            other => panic!("{other:?}"),
        }
    }
}

fn change(id: u64, expected: u64, operation: Operation) -> Demand {
    Demand::Change {
        vm: name("vm"),
        request: Request {
            id: RequestId(id),
            expected: Generation(expected),
            operation,
            at_unix_seconds: 0,
        },
    }
}

fn register() -> Demand {
    change(1, 0, Operation::Register { boot: Boot(1) })
}

fn pair() -> Demand {
    let pair = Operation::Pair {
        boot: Boot(1),
        backup: name("b"),
        pairing: PairingId(7),
        flush: Flush::Site,
    };
    change(2, 1, pair)
}

/// Whether a message promises something that its sender must not forget.
fn promises(message: &Message) -> bool {
    match message.get_msg_type() {
        MessageType::MsgRequestVote => true,
        MessageType::MsgRequestVoteResponse | MessageType::MsgAppendResponse => !message.reject,
        _ => false,
    }
}

/// The first effect that promises what is only written after it.
fn spoken_too_early(effects: &[Effect]) -> Option<&Effect> {
    let last_write = effects
        .iter()
        .rposition(|effect| matches!(effect, Effect::Persist(_)))?;
    effects[..last_write].iter().find(|effect| match effect {
        Effect::Send(messages) => messages.iter().any(promises),
        Effect::Answer(_, reply) => matches!(reply, Reply::Answer(_) | Reply::Seat { .. }),
        Effect::Persist(_) | Effect::Refuse(..) | Effect::Halt(_) => false,
    })
}

#[test]
fn nothing_is_promised_before_it_is_written() {
    let mut cluster = Cluster::new();
    assert!(matches!(cluster.ask("site/a", register()), Reply::Answer(_)));
    assert!(matches!(cluster.ask("site/a", pair()), Reply::Answer(_)));
    assert_eq!(
        cluster.done.iter().find_map(|effects| spoken_too_early(effects)),
        None
    );
    let all = cluster.done.iter().flatten();
    let sent: Vec<&Message> = all
        .clone()
        .filter_map(|effect| match effect {
            Effect::Send(messages) => Some(messages),
            _ => None,
        })
        .flatten()
        .collect();
    for kind in [
        MessageType::MsgRequestVote,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgAppendResponse,
    ] {
        assert!(
            sent.iter()
                .any(|message| message.get_msg_type() == kind && promises(message)),
            "{kind:?}"
        );
    }
    assert!(all.filter(|effect| matches!(effect, Effect::Persist(_))).count() > 6);
}

#[test]
fn planted_words_before_the_write_are_found() {
    let write = || Effect::Persist(Box::default());
    let mut vote = Message::default();
    vote.set_msg_type(MessageType::MsgRequestVoteResponse);
    let vote = Effect::Send(vec![vote]);
    assert_eq!(spoken_too_early(&[vote.clone(), write()]), Some(&vote));
    assert_eq!(spoken_too_early(&[write(), vote]), None);
}

/// A leader's entries are on their way while it writes them itself: one wait for the disk less in every change.
#[test]
fn a_leader_sends_its_entries_before_it_has_written_them() {
    let mut cluster = Cluster::new();
    cluster.done.clear();
    cluster.ask("site/a", register());
    let order: Vec<&str> = cluster.done[0]
        .iter()
        .map(|effect| match effect {
            Effect::Send(_) => "send",
            Effect::Persist(_) => "write",
            _ => "other",
        })
        .collect();
    assert_eq!(order, ["send", "write"]);
}

#[test]
fn the_third_site_leads_and_the_others_say_so() {
    let mut cluster = Cluster::new();
    assert_eq!(cluster.leader(), 2);
    assert_eq!(
        cluster.ask_node(0, "site/a", register()),
        Reply::NotLeader(Some(name("c")))
    );
    let Reply::Status(status) = cluster.ask_node(0, "site/a", Demand::Status) else {
        panic!()
    };
    assert_eq!(
        (status.role.as_str(), status.leader),
        ("follower", Some(name("c")))
    );
}

#[test]
fn a_leader_of_lower_priority_hands_over() {
    let mut cluster = Cluster::new();
    cluster.nodes[2] = Node::new(
        settings("c", 3),
        Recovered {
            // It was away: down for a moment, and the others have chosen.
            ..Recovered::first(Seats::first(["a", "b", "c"].map(name)), BTreeMap::new())
        },
    );
    let away = cluster.nodes.pop().unwrap();
    let mut elected = false;
    for _ in 0..4 * ELECTION_TICKS {
        for index in 0..2 {
            let effects = cluster.nodes[index].step([Event::Tick]);
            let mut waiting: VecDeque<Effect> = effects.into();
            while let Some(effect) = waiting.pop_front() {
                let Effect::Send(messages) = effect else { continue };
                for message in messages.into_iter().filter(|message| message.to < 3) {
                    let to = usize::try_from(message.to).unwrap() - 1;
                    waiting.extend(cluster.nodes[to].step([Event::Message(Box::new(message))]));
                }
            }
        }
        elected |= cluster.nodes.iter().any(Node::leads);
    }
    assert!(elected);
    cluster.nodes.push(away);
    cluster.wait(4 * ELECTION_TICKS as u64);
    assert_eq!(cluster.leader(), 2);
    assert_eq!(cluster.nodes.iter().filter(|node| node.leads()).count(), 1);
}

/// Check-quorum and pre-vote: who hears nobody leads no longer, and brings no new term to the others when it is back.
#[test]
fn a_node_that_hears_nobody_neither_leads_nor_raises_its_term() {
    let mut cluster = Cluster::new();
    let (term, _) = cluster.nodes[0].leadership();
    for alone in [0, 2] {
        for _ in 0..10 * ELECTION_TICKS {
            cluster.nodes[alone].step([Event::Tick]);
        }
        assert!(!cluster.nodes[alone].leads());
        assert_eq!(cluster.nodes[alone].leadership(), (term, None));
    }
}

#[test]
fn a_day_of_claims_leaves_a_short_log() {
    let mut cluster = Cluster::new();
    cluster.ask("site/a", register());
    cluster.ask("site/a", pair());
    let mut generation = 2;
    for minute in 0..24 * 60 {
        let claim = Operation::Claim {
            pairing: PairingId(minute + 7),
            boot: Boot(1),
        };
        let again = Operation::Pair {
            boot: Boot(1),
            backup: name("b"),
            pairing: PairingId(minute + 8),
            flush: Flush::Site,
        };
        for operation in [claim, again] {
            let id = generation + 1;
            let reply = cluster.ask("site/a", change(id, generation, operation));
            assert!(
                matches!(reply, Reply::Answer(Answer { verdict: Ok(()), .. })),
                "{reply:?}"
            );
            generation += 1;
        }
    }
    for node in &cluster.nodes {
        assert!(
            node.log_length() <= LOG_ENTRIES_KEPT + LOG_CUT_EVERY + APPLIED_PER_MARK + 1,
            "{}",
            node.log_length()
        );
        assert!(node.status().applied > 24 * 60);
    }
    let bytes = serde_json::to_vec(&cluster.record()).unwrap().len();
    assert!(bytes < crate::limits::RECORD_BYTES_MAX, "{bytes}");
}

/// The longest names, reasons and histories that there can be.
#[test]
fn the_longest_record_fits_into_its_bound() {
    let long = |letter: &str| letter.repeat(63);
    let reason = Reason::new(&"\"".repeat(crate::limits::REASON_BYTES_MAX)).unwrap();
    let (vm, mut machine) = (name("vm"), Machine::new(Seats::first([name("a")])));
    let mut apply = |by: &str, id: u64, expected: u64, operation: Operation| {
        let request = Request {
            id: RequestId(u64::MAX - 100_000 + id),
            expected: Generation(expected),
            operation,
            at_unix_seconds: i64::MIN,
        };
        let command = Command::Change {
            caller: identity(by),
            vm: vm.clone(),
            request,
        };
        assert!(command.encode().len() <= crate::limits::COMMAND_BYTES_MAX);
        match machine.apply(&command) {
            Applied::Answer(answer) => assert_eq!(answer.verdict, Ok(())),
            Applied::Seat(_) => panic!("it was a change"),
        }
        Record::clone(&machine.records[&vm])
    };
    let site = format!("site/{}", long("s"));
    apply(&site, 0, 0, Operation::Register { boot: Boot(u64::MAX) });
    let mut record = None;
    for round in 0..40_u64 {
        let operator = format!("operator/{}{}", long("o").split_at(62).0, round % 5);
        let force = Operation::Force {
            site: name(&long("t")),
            reason: reason.clone(),
        };
        record = Some(apply(&operator, round, round + 1, force));
    }
    let bytes = serde_json::to_vec(&record.unwrap()).unwrap().len();
    assert!(bytes < crate::limits::RECORD_BYTES_MAX, "{bytes}");
    assert!(
        bytes > crate::limits::RECORD_BYTES_MAX / 4,
        "the bound is far off: {bytes}"
    );
}

/// Who forced which site, and why, is told however often the VM moves and is set after that.
#[test]
fn what_an_operator_has_decided_is_not_pushed_out_by_what_sites_do() {
    let (vm, mut machine) = (name("vm"), Machine::new(Seats::first([name("a")])));
    let mut generation = 0;
    let mut apply = |by: &str, id: u64, operation: Operation| {
        let request = Request {
            id: RequestId(id),
            expected: Generation(generation),
            operation,
            at_unix_seconds: 0,
        };
        let command = Command::Change {
            caller: identity(by),
            vm: vm.clone(),
            request,
        };
        match machine.apply(&command) {
            Applied::Answer(answer) => {
                assert_eq!(answer.verdict, Ok(()));
                generation = answer.generation.0;
            }
            Applied::Seat(_) => panic!("it was a change"),
        }
        Record::clone(&machine.records[&vm])
    };
    apply("site/a", 1, Operation::Register { boot: Boot(1) });
    let force = Operation::Force {
        site: name("b"),
        reason: Reason::new("a burnt down").unwrap(),
    };
    apply("operator/o", 1, force);
    apply("site/b", 1, Operation::ColdStart { boot: Boot(2) });
    for id in 2..100 {
        apply("site/b", id, Operation::CancelPair { boot: Boot(2) });
    }
    let mut record = None;
    for id in 2..100 {
        let configure = Operation::Configure {
            preferred: None,
            flush: Flush::Site,
        };
        record = Some(apply("operator/o", id, configure));
    }
    let mut record = record.unwrap();
    assert_eq!(record.history.len(), 1 + HISTORY_MOVES_MAX + HISTORY_SETTINGS_MAX);
    let told = &record.history[0];
    assert_eq!((told.operation, told.generation), ("force", Generation(2)));
    assert_eq!(
        (&told.by, &told.site),
        (&identity("operator/o"), &Some(name("b")))
    );
    assert_eq!(told.reason, Some(Reason::new("a burnt down").unwrap()));
    let last_move = record
        .history
        .iter()
        .rposition(|entry| entry.by.role == Role::Site);
    assert_eq!(
        last_move,
        Some(HISTORY_MOVES_MAX),
        "what set it last is still told"
    );

    // One from before the site was kept is read.
    let text = serde_json::to_string(&record)
        .unwrap()
        .replace("\"site\":\"b\",\"reason\"", "\"reason\"");
    record.history[0].site = None;
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
}

#[test]
fn an_override_waits_until_the_other_site_is_silent() {
    let mut cluster = Cluster::new();
    cluster.ask("site/a", register());
    let force = || {
        let force = Operation::Force {
            site: name("b"),
            reason: Reason::new("a burnt down").unwrap(),
        };
        change(1, 1, force)
    };
    let reachable = Reply::PeerReachable { site: name("a") };
    assert_eq!(cluster.ask("operator/o", force()), reachable);
    cluster.wait(SITE_SILENT_TICKS - 1);
    assert_eq!(cluster.ask("operator/o", force()), reachable);
    cluster.wait(1);
    assert!(matches!(cluster.ask("operator/o", force()), Reply::Answer(answer) if answer.verdict.is_ok()));
    let solo = State::Solo {
        site: name("b"),
        boot: None,
    };
    assert_eq!(cluster.record().unwrap().state, solo);
}

#[test]
fn a_site_is_never_silent_before_its_time_whatever_the_heartbeat() {
    for heartbeat_ms in HEARTBEAT_MS {
        let ticks = site_silent_ticks(heartbeat_ms);
        let ms = ticks * heartbeat_ms / crate::limits::HEARTBEAT_TICKS as u64;
        assert!(ms >= SITE_SILENT_MS, "{heartbeat_ms}: {ms}");
        assert!(ticks >= 2 * ELECTION_TICKS as u64, "{heartbeat_ms}: {ticks}");
    }
    assert_eq!(site_silent_ticks(20), 2_500);
    assert_eq!(site_silent_ticks(HEARTBEAT_MS_DEFAULT), 500);
}

/// A leader that has just been elected has heard nobody, and that proves nothing.
#[test]
fn a_new_leader_takes_every_site_for_reachable() {
    let mut cluster = Cluster::new();
    cluster.ask("site/a", register());
    cluster.wait(SITE_SILENT_TICKS);
    let restarted = Recovered::first(Seats::first(["a", "b", "c"].map(name)), BTreeMap::new());
    let mut node = Node::new(
        settings("a", 1),
        Recovered {
            records: cluster.nodes[0].machine().records.clone(),
            applied: AppliedMark {
                conf_state: raft::eraftpb::ConfState {
                    voters: vec![1],
                    ..Default::default()
                },
                ..restarted.applied.clone()
            },
            ..restarted
        },
    );
    for _ in 0..2 * ELECTION_TICKS {
        node.step([Event::Tick]);
    }
    assert!(node.leads());
    let force = Operation::Force {
        site: name("b"),
        reason: Reason::new("a burnt down").unwrap(),
    };
    let request = Event::Request {
        ticket: Ticket(1),
        from: identity("operator/o"),
        at_unix_seconds: 0,
        demand: change(1, 1, force),
    };
    let reachable = Reply::PeerReachable { site: name("a") };
    assert_eq!(node.step([request]), [Effect::Answer(Ticket(1), reachable)]);
}

/// What its predecessor answered may not be applied yet: the record in memory proves nothing.
#[test]
fn a_leader_that_has_not_committed_yet_refuses_nothing_by_what_it_remembers() {
    let mut cluster = Cluster::new();
    cluster.ask("site/a", register());
    let force = |expected| {
        let reason = Reason::new("a burnt down").unwrap();
        let site = name("b");
        change(1, expected, Operation::Force { site, reason })
    };
    // Votes arrive, entries do not.
    let mut heir = false;
    for _ in 0..2 * ELECTION_TICKS {
        for index in 0..2 {
            let mut waiting: VecDeque<Effect> = cluster.nodes[index].step([Event::Tick]).into();
            while let Some(effect) = waiting.pop_front() {
                let Effect::Send(messages) = effect else { continue };
                for message in messages {
                    let is_entry = message.get_msg_type() == MessageType::MsgAppend;
                    if message.to < 3 && !is_entry {
                        let to = usize::try_from(message.to).unwrap() - 1;
                        waiting.extend(cluster.nodes[to].step([Event::Message(Box::new(message))]));
                    }
                }
            }
        }
        heir |= cluster.nodes[0].leads();
        if heir {
            break;
        }
    }
    assert!(heir, "the other of the two leads");
    let mut ask = |demand| {
        let request = Event::Request {
            ticket: Ticket(900),
            from: identity("operator/o"),
            at_unix_seconds: 0,
            demand,
        };
        cluster.nodes[0].step([request])
    };
    let busy = [Effect::Answer(Ticket(900), Reply::Busy)];
    assert_eq!(ask(force(1)), busy);
    assert_eq!(ask(register()), busy);
}

#[test]
fn the_time_of_a_holder_is_that_of_the_last_change_of_holder() {
    let mut machine = Machine::new(Seats::first([name("a")]));
    let summary = |record: &Record| Summary::of(&name("vm"), record).since_unix_seconds;
    let configure = Operation::Configure {
        preferred: None,
        flush: Flush::Site,
    };
    let steps = [
        ("site/a", 0, 5, Operation::Register { boot: Boot(1) }),
        ("operator/o", 1, 9, configure),
    ];
    for (caller, expected, at_unix_seconds, operation) in steps {
        machine.apply(&Command::Change {
            caller: identity(caller),
            vm: name("vm"),
            request: Request {
                id: RequestId(1),
                expected: Generation(expected),
                operation,
                at_unix_seconds,
            },
        });
    }
    let mut record = Record::clone(&machine.records[&name("vm")]);
    assert_eq!((record.history.len(), summary(&record)), (2, Some(5)));
    record.generation = Generation(1 << 32);
    assert_eq!(summary(&record), Some(5), "of a cluster that was restored");
    record.history.remove(0);
    assert_eq!(summary(&record), None, "it is forgotten");
}

#[test]
fn a_running_node_keeps_its_seat() {
    let mut cluster = Cluster::new();
    let reseat = || Demand::Reseat {
        lost: NodeId(1),
        nonce: 5,
    };
    // However often it is asked.
    for _ in 0..3 * ELECTION_TICKS {
        for running in ["tiebreaker/a", "tiebreaker/c"] {
            assert_eq!(cluster.ask(running, reseat()), Reply::SeatTaken);
        }
        cluster.wait(1);
    }
    assert!(
        matches!(cluster.ask("tiebreaker/d", reseat()), Reply::Forbidden(why) if why.contains("a, b, c"))
    );
}

#[test]
fn a_seat_is_renewed_once_for_each_nonce() {
    let mut seats = Seats::first(["a", "b", "c"].map(name));
    assert_eq!(seats.renew(&name("b"), NodeId(2), 9), Some(NodeId(4)));
    assert_eq!(
        seats.renew(&name("b"), NodeId(2), 9),
        Some(NodeId(4)),
        "a copy gets the same"
    );
    assert_eq!(seats.renew(&name("b"), NodeId(2), 8), None, "another was faster");
    assert_eq!(seats.renew(&name("d"), NodeId(2), 8), None);
    assert_eq!(seats.renew(&name("b"), NodeId(4), 8), Some(NodeId(5)));
    assert_eq!(seats.name_of(NodeId(5)), Some(&name("b")));
    assert_eq!(
        (seats.name_of(NodeId(2)), seats.id_of(&name("a"))),
        (None, Some(NodeId(1)))
    );
}

#[test]
fn patience_follows_priority_and_never_ties() {
    for seed in 0..200 {
        let priorities = [(name("a"), 1), (name("b"), 1), (name("c"), 2)];
        let patience = |own: &str, seed| {
            Patience::draw(
                &name(own),
                priorities.iter().map(|(name, priority)| (name, *priority)),
                seed,
            )
        };
        let [a, b, c] = ["a", "b", "c"].map(|own| patience(own, seed));
        assert!(c < a && a < b, "{c:?} {a:?} {b:?}");
        assert!(c < patience("a", seed + 1) && patience("b", seed).ticks() < 2 * ELECTION_TICKS);
        assert!((ELECTION_TICKS..ELECTION_TICKS + PATIENCE_STEP_TICKS).contains(&c.ticks()));
    }
}

#[test]
fn a_command_of_a_later_version_stops_the_node_and_is_not_applied() {
    let later = br#"{"v":2,"command":{"levitate":{}}}"#;
    assert_eq!(Command::decode(later), Err(NewerCommand));
    let seats = Seats::first([name("a")]);
    let mut content = Recovered::first(seats, BTreeMap::new());
    let mut entry = Entry::default();
    (entry.index, entry.term, entry.data) = (2, 1, later.to_vec().into());
    content.entries.push(entry);
    content.hard_state.commit = 2;
    let mut node = Node::new(settings("a", 1), content);
    let effects = node.step([Event::Tick]);
    assert!(
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Halt(why) if why.contains("upgrade")))
    );
    let request = Event::Request {
        ticket: Ticket(1),
        from: identity("site/a"),
        at_unix_seconds: 0,
        demand: register(),
    };
    assert!(matches!(
        node.step([request])[..],
        [Effect::Answer(_, Reply::Stalled(_))]
    ));
    assert!(
        !node
            .step([Event::Tick])
            .iter()
            .any(|effect| matches!(effect, Effect::Persist(_) | Effect::Send(_)))
    );
}

#[test]
fn a_store_whose_parts_do_not_fit_is_not_taken() {
    let content = |indexes: &[u64], commit: u64, applied: u64| {
        let mut content = Recovered::first(Seats::first([name("a")]), BTreeMap::new());
        content.entries = indexes
            .iter()
            .map(|index| Entry {
                index: *index,
                term: 1,
                ..Entry::default()
            })
            .collect();
        (content.hard_state.commit, content.applied.index) = (commit, applied);
        content.check()
    };
    assert_eq!(content(&[2, 3], 3, 2), Ok(()));
    assert_eq!(content(&[2, 4], 3, 2), Err(RecoveredError::Gap(3)));
    assert_eq!(content(&[3], 3, 2), Err(RecoveredError::Gap(2)));
    for (commit, applied) in [(4, 2), (2, 3), (3, 0)] {
        assert!(matches!(
            content(&[2, 3], commit, applied),
            Err(RecoveredError::Marks { .. })
        ));
    }
}
