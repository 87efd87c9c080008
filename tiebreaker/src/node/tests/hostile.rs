//! What no node says is refused, and the node that hears it goes on.

use std::sync::Arc;

use raft::eraftpb::{ConfState, EntryType, Snapshot};

use super::*;
use crate::limits::{COMMAND_BYTES_MAX, CONTEXT_BYTES_MAX, HISTORY_ENTRIES_READ_MAX, NUMBERS_AHEAD_MAX};

/// A follower of a leader in the same term, as its voice: entries 1 to 9 are there and committed.
fn follower() -> (Node, Message) {
    let mut content = Recovered::first(Seats::first(["a", "b", "c"].map(name)), BTreeMap::new());
    content.entries = (2..10).map(|index| entry(index, 1)).collect();
    content.hard_state.commit = 9;
    let mut node = Node::new(settings("a", 1), content);
    let mut heartbeat = Message::default();
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    (heartbeat.from, heartbeat.to, heartbeat.term) = (2, 1, 3);
    assert!(refusal(&mut node, heartbeat.clone()).is_none());
    (node, heartbeat)
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        ..Entry::default()
    }
}

fn of_kind(like: &Message, kind: MessageType) -> Message {
    let mut message = like.clone();
    message.set_msg_type(kind);
    message
}

fn refusal(node: &mut Node, message: Message) -> Option<Impossible> {
    let effects = node.step([Event::Message(Box::new(message))]);
    effects.iter().find_map(|effect| match effect {
        Effect::Refuse(NodeId(2), why) => Some(*why),
        Effect::Refuse(other, _) => panic!("node {other} is refused"),
        _ => None,
    })
}

/// Every one of them leaves the node as it was: it still follows.
#[track_caller]
fn is_refused(message: Message) {
    let (mut node, heartbeat) = follower();
    let before = node.status();
    let why = refusal(&mut node, message.clone());
    assert!(why.is_some(), "{message:?} is taken");
    assert_eq!(node.status(), before);
    assert_eq!(refusal(&mut node, heartbeat), None);
}

#[test]
fn a_commit_of_what_is_not_there_is_refused() {
    let (mut node, heartbeat) = follower();
    let commit = |commit| Message {
        commit,
        ..heartbeat.clone()
    };
    assert_eq!(refusal(&mut node, commit(9)), None);
    let why = Impossible::Commit { commit: 10, last: 9 };
    assert_eq!(refusal(&mut node, commit(10)), Some(why));
    is_refused(commit(u64::MAX));
}

#[test]
fn numbers_that_no_cluster_comes_to_are_refused() {
    let (_, heartbeat) = follower();
    let append = of_kind(&heartbeat, MessageType::MsgAppend);
    let far = NUMBERS_AHEAD_MAX + 10;
    let faults: [fn(&mut Message, u64); 6] = [
        |message, far| message.term = far,
        |message, far| message.log_term = far,
        |message, far| message.index = far,
        |message, far| message.commit = far,
        |message, far| message.reject_hint = far,
        |message, _| message.term = 0,
    ];
    for far in [far, u64::MAX] {
        for fault in faults {
            let mut message = append.clone();
            (message.index, message.log_term) = (9, 1);
            fault(&mut message, far);
            is_refused(message);
        }
    }
    let context = vec![0; CONTEXT_BYTES_MAX + 1].into();
    is_refused(Message { context, ..heartbeat });
}

#[test]
fn entries_that_do_not_follow_on_each_other_are_refused() {
    let (_, heartbeat) = follower();
    let append = of_kind(&heartbeat, MessageType::MsgAppend);
    let with = |(index, log_term): (u64, u64), entries: Vec<Entry>| Message {
        index,
        log_term,
        entries: entries.into(),
        ..append.clone()
    };
    let (mut node, _) = follower();
    assert_eq!(
        refusal(&mut node, with((9, 1), vec![entry(10, 2), entry(11, 3)])),
        None
    );
    assert_eq!(node.log_length(), 10);
    is_refused(with((9, 1), vec![entry(11, 3)]));
    is_refused(with((9, 1), vec![entry(10, 2), entry(10, 2)]));
    is_refused(with((9, 1), vec![entry(3, 2)]));
    is_refused(with((9, 1), vec![entry(10, 3), entry(11, 2)]));
    is_refused(with((9, 1), vec![entry(10, 4)]));
    is_refused(with((9, 1), vec![entry(10, 0)]));
    is_refused(with((40, 0), vec![entry(41, 3)]));
    let odd = |alter: fn(&mut Entry)| {
        let mut entry = entry(10, 3);
        alter(&mut entry);
        with((9, 1), vec![entry])
    };
    is_refused(odd(|entry| entry.data = vec![b' '; COMMAND_BYTES_MAX + 1].into()));
    is_refused(odd(|entry| entry.context = vec![0; CONTEXT_BYTES_MAX + 1].into()));
    is_refused(odd(|entry| entry.set_entry_type(EntryType::EntryConfChangeV2)));
}

#[test]
fn what_nodes_do_not_send_to_each_other_is_refused() {
    let (_, heartbeat) = follower();
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgPropose,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
        MessageType::MsgReadIndex,
        MessageType::MsgReadIndexResp,
    ] {
        is_refused(of_kind(&heartbeat, kind));
    }
}

#[test]
fn a_leader_is_not_told_of_entries_that_it_does_not_have() {
    let mut cluster = Cluster::new();
    let leader = &mut cluster.nodes[2];
    let last = leader.status().applied;
    let mut told = Message::default();
    told.set_msg_type(MessageType::MsgAppendResponse);
    (told.from, told.to, told.term) = (2, 3, leader.leadership().0);
    told.index = last + 1;
    let why = Impossible::Acknowledged {
        index: last + 1,
        last,
    };
    assert_eq!(refusal(leader, told.clone()), Some(why));
    told.index = last;
    assert_eq!(refusal(leader, told), None);
    assert!(matches!(cluster.ask("site/a", register()), Reply::Answer(_)));
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let (mut node, heartbeat) = follower();
    let mut cluster = Cluster::new();
    cluster.ask("site/a", register());
    let with = |machine: &Machine, alter: fn(&mut Snapshot)| {
        let mut snapshot = Snapshot {
            data: serde_json::to_vec(machine).unwrap().into(),
            ..Snapshot::default()
        };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (40, 2);
        metadata.set_conf_state(ConfState::from((vec![1, 2, 3], Vec::new())));
        alter(&mut snapshot);
        let mut message = of_kind(&heartbeat, MessageType::MsgSnapshot);
        message.set_snapshot(snapshot);
        message
    };
    let good = cluster.nodes[2].machine().clone();
    let faults: [fn(&mut Snapshot); 9] = [
        |snapshot| snapshot.data = b"{}".to_vec().into(),
        |snapshot| snapshot.mut_metadata().index = 0,
        |snapshot| snapshot.mut_metadata().index = u64::MAX,
        |snapshot| snapshot.mut_metadata().term = 0,
        |snapshot| snapshot.mut_metadata().term = 4,
        |snapshot| snapshot.mut_metadata().mut_conf_state().voters.clear(),
        |snapshot| snapshot.mut_metadata().mut_conf_state().voters.push(1),
        |snapshot| snapshot.mut_metadata().mut_conf_state().learners.push(0),
        |snapshot| snapshot.mut_metadata().mut_conf_state().voters_outgoing.push(1),
    ];
    for fault in faults {
        is_refused(with(&good, fault));
    }
    let altered = |alter: fn(&mut Record)| {
        let mut machine = good.clone();
        alter(Arc::make_mut(machine.records.get_mut(&name("vm")).unwrap()));
        with(&machine, |_| {})
    };
    is_refused(altered(|record| record.generation = Generation(u64::MAX)));
    is_refused(altered(|record| {
        let entry = record.history[0].clone();
        record.history = vec![entry; HISTORY_ENTRIES_READ_MAX + 1];
    }));
    assert_eq!(refusal(&mut node, with(&good, |_| {})), None);
    assert_eq!(*node.machine(), good);
}
