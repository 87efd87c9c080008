//! Every named maximum of this package.

/// Moves of a VM that a record's history tells of; older ones are forgotten. Every node has every record in memory and sends
/// all of them to one that is filled anew: this is what they are made of.
pub const HISTORY_MOVES_MAX: usize = 4;

/// Changes of its settings that a history tells of.
pub const HISTORY_SETTINGS_MAX: usize = 4;

/// Decisions of operators, with their reasons, that a history tells of.
pub const HISTORY_DECISIONS_MAX: usize = 16;

/// Entries of a history that is read: so many there were once.
pub const HISTORY_ENTRIES_READ_MAX: usize = 32;

/// Changes that a record has counted: of more than any cluster makes, whoever tells of them is not believed.
pub const CHANGES_MAX: u64 = 1 << 62;

/// Requesters of one role whose last answer a record keeps; the one that has been silent longest goes first. Two sites
/// are in a record, a third while one replaces another.
pub const REMEMBERED_PER_ROLE_MAX: usize = 4;

/// Bytes of the reason that an operator gives.
pub const REASON_BYTES_MAX: usize = 256;

/// Names that have a record, retired ones too.
pub const RECORDS_MAX: usize = 16_384;

/// Nodes of a cluster.
pub const NODES: usize = 3;

/// Bytes of one command in the log. The longest holds two names, an operator's reason and a few numbers.
pub const COMMAND_BYTES_MAX: usize = 2 * 1024;

/// Bytes of what a leader puts beside a command, or asks with a read.
pub const CONTEXT_BYTES_MAX: usize = 64;

/// By how much a term or an index from another node may be ahead of this node's own: more than any cluster lives to see.
pub const NUMBERS_AHEAD_MAX: u64 = 1 << 32;

/// Bytes of one record in JSON.
pub const RECORD_BYTES_MAX: usize = 48 * 1024;

/// Bytes of one value in the store: sled moves longer ones out of its log, into files that it does not sync with it.
pub const VALUE_BYTES_MAX: usize = 60 * 1024;

/// Requests that wait for their outcome in one node, reads among them. A site has few VMs in trouble at once, but all
/// of them when its peer dies.
pub const WAITING_REQUESTS_MAX: usize = 4096;

/// Entries that are applied before the state is written again: until then it follows from the log at a start.
pub const APPLIED_PER_MARK: u64 = 32;

/// Batches that a store keeps as one key each before it takes them apart.
pub const JOURNAL_BATCHES_MAX: usize = 64;

/// Bytes of a batch that is kept as one key: a few entries. A longer one is taken apart at once.
pub const JOURNAL_BYTES_MAX: usize = 4 * 1024;

/// Entries that the log keeps behind the state, so that a node that was away for moments needs no snapshot.
pub const LOG_ENTRIES_KEPT: u64 = 1024;

/// Entries beyond [`LOG_ENTRIES_KEPT`] at which the log is cut.
pub const LOG_CUT_EVERY: u64 = 256;

/// Bytes of entries in one message between nodes.
pub const APPEND_BYTES_MAX: u64 = 256 * 1024;

/// Bytes of entries that a leader takes before a majority has the first of them.
pub const UNCOMMITTED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Appends on their way to one node without an answer.
pub const APPENDS_IN_FLIGHT_MAX: usize = 256;

/// Bytes of a snapshot.
pub const SNAPSHOT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes of one frame, without its head. A longer message between nodes travels in several.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Messages that wait to be sent to one node; further ones are dropped, and sent anew by consensus itself.
pub const OUTBOX_MESSAGES_MAX: usize = 1024;

/// Events that wait for the node; whoever brings one more waits.
pub const INBOX_EVENTS_MAX: usize = 1024;

/// Connections that are open to one node at a time.
pub const SESSIONS_MAX: usize = 1024;

/// Milliseconds from a connection's opening to the end of its handshake and its first frame.
pub const HANDSHAKE_MS_MAX: u64 = 5_000;

/// Milliseconds for which what was sent may stay unacknowledged by the other end's kernel.
pub const UNACKNOWLEDGED_MS_MAX: u32 = 3_000;

/// Seconds of silence after which the other end's kernel is asked whether it is there.
pub const KEEPALIVE_SECONDS: u32 = 5;

/// Milliseconds between two tries to reach a node that does not answer.
pub const REDIAL_MS: u64 = 100;

/// Milliseconds that a client waits for one node's reply before it asks another.
pub const REPLY_MS_MAX: u64 = 1_500;

/// Milliseconds between two tries of a client that found no leader.
pub const RETRY_MS: u64 = 50;

/// Ticks between two tries to go on after a store has failed.
pub const REOPEN_TICKS: u32 = 50;

/// Milliseconds that a client's connection may be silent.
pub const SILENT_CLIENT_MS_MAX: u64 = 60_000;

/// Ticks between two heartbeats of a leader.
pub const HEARTBEAT_TICKS: usize = 5;

/// Ticks without a leader after which the most eager node stands for election.
pub const ELECTION_TICKS: usize = 50;

/// Ticks by which nodes of neighbouring priority differ in their patience.
pub const PATIENCE_STEP_TICKS: usize = 10;

/// Milliseconds without a word from a site after which it counts as unreachable to an operator's override. A site says
/// something every few seconds, whatever the heartbeat between nodes is.
pub const SITE_SILENT_MS: u64 = 10_000;

/// Heartbeats that this takes at the least: a site may have asked nodes that did not lead, over two elections.
pub const SITE_SILENT_HEARTBEATS: u64 = 20;

/// Milliseconds between heartbeats that a configuration may ask for.
pub const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 20..=1000;

/// Milliseconds between heartbeats, where nothing is said.
pub const HEARTBEAT_MS_DEFAULT: u64 = 100;

/// The ticks of a node with this heartbeat after which a site is silent ([`SITE_SILENT_MS`]).
#[must_use]
pub const fn site_silent_ticks(heartbeat_ms: u64) -> u64 {
    let ticks = HEARTBEAT_TICKS as u64;
    let (by_time, by_heartbeats) = (
        (SITE_SILENT_MS * ticks).div_ceil(heartbeat_ms),
        SITE_SILENT_HEARTBEATS * ticks,
    );
    if by_time > by_heartbeats {
        by_time
    } else {
        by_heartbeats
    }
}

// raft-rs: a follower must miss several heartbeats before it doubts its leader.
const _: () = assert!(ELECTION_TICKS >= 10 * HEARTBEAT_TICKS);
const _: () = assert!(SITE_SILENT_HEARTBEATS * HEARTBEAT_TICKS as u64 >= 2 * ELECTION_TICKS as u64);
// The jitter of one node's patience stays within its step.
const _: () = assert!(PATIENCE_STEP_TICKS > HEARTBEAT_TICKS);
// The least patient node gives up before twice the base, so that answers are there again within that time.
const _: () = assert!(PATIENCE_STEP_TICKS * NODES < ELECTION_TICKS);
const _: () = assert!(APPEND_BYTES_MAX <= UNCOMMITTED_BYTES_MAX);
const _: () = assert!((COMMAND_BYTES_MAX as u64) < APPEND_BYTES_MAX);
const _: () = assert!(RECORD_BYTES_MAX < VALUE_BYTES_MAX && VALUE_BYTES_MAX < 64 * 1024);
const _: () =
    assert!(HISTORY_MOVES_MAX + HISTORY_SETTINGS_MAX + HISTORY_DECISIONS_MAX <= HISTORY_ENTRIES_READ_MAX);
const _: () = assert!(REASON_BYTES_MAX * 4 < COMMAND_BYTES_MAX);
// A record of the longest history and answers fits: each holds at most a reason (escaped: twice its bytes), four names
// and some 300 bytes of keys and numbers.
const _: () = assert!(
    HISTORY_ENTRIES_READ_MAX * (2 * REASON_BYTES_MAX + 475)
        + 2 * REMEMBERED_PER_ROLE_MAX * (2 * REASON_BYTES_MAX + 1500)
        < RECORD_BYTES_MAX
);
// A change is one key in the store, and the entries that the state follows from are kept.
const _: () = assert!(COMMAND_BYTES_MAX < JOURNAL_BYTES_MAX && JOURNAL_BYTES_MAX < VALUE_BYTES_MAX);
const _: () = assert!(APPLIED_PER_MARK < LOG_ENTRIES_KEPT);
// One append and what surrounds it fit into a frame, and so does a page with one record more than asked for.
const _: () = assert!(APPEND_BYTES_MAX + 2 * (COMMAND_BYTES_MAX as u64) < FRAME_BYTES_MAX as u64);
const _: () = assert!(FRAME_BYTES_MAX / 2 + RECORD_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(SILENT_CLIENT_MS_MAX > HANDSHAKE_MS_MAX);
