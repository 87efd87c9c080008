//! Heartbeats: datagrams that say that a site is there, and how far it is (P4).
//!
//! ```text
//!   0         1      2       3   4              20        28          36             44              48
//!   ├ version ┼ side ┼ flags ┼ 0 ┼ session (16) ┼ counter ┼ sent (µs) ┼ echo of (µs) ┼ echo held (µs) ┤
//!   48            56            64         80
//!   ├ received    ┼ replayed    ┼ MAC (16) ┤                                  integers little-endian
//! ```
//!
//! - `sent` is on the sender's own monotonic clock. The other end echoes it in its next datagram with the time for which
//!   it held it; so each end measures round trips on one clock. No two hosts' clocks are compared.
//! - Flag 1: the sender has something to replay. Flag 2: there is an echo.
//! - The MAC is the beginning of BLAKE3, keyed, over all that is before it. The key is exported from the log connection's
//!   TLS session, one for each direction: nobody else can make a datagram, and none can be sent back to its sender. A new
//!   connection brings new keys; those of the connection before count until the other end uses the new ones.
//! - Counters only rise, over all connections of a session. A receiver remembers which of the last 64 it has seen, so
//!   that a datagram counts once, late ones in any order.
//! - What is dropped is counted by its reason. Nothing that a stranger sends changes anything else.

use std::fmt;
use std::time::Duration;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::session::{LogSeq, Session, Side, Tag};
use crate::base::units::ExitOrdinal;

const VERSION: u8 = 1;
const FLAG_BUSY: u8 = 1;
const FLAG_ECHO: u8 = 2;
const MAC_BYTES: usize = 16;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Content {
    version: u8,
    side: u8,
    flags: u8,
    zero: u8,
    tag: [u8; Tag::BYTES],
    counter: U64,
    sent_us: U64,
    echo_of_us: U64,
    echo_held_us: U32,
    received: U64,
    replayed: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Datagram {
    content: Content,
    mac: [u8; MAC_BYTES],
}

/// Bytes of a datagram.
pub const HEARTBEAT_BYTES: usize = size_of::<Datagram>();

/// The keys of both directions.
#[derive(Clone, PartialEq, Eq)]
pub struct HeartbeatKeys {
    /// Of what the primary sends.
    pub primary: [u8; 32],
    /// Of what the backup sends.
    pub backup: [u8; 32],
}

/// Keys are not shown.
impl fmt::Debug for HeartbeatKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeartbeatKeys").finish_non_exhaustive()
    }
}

impl HeartbeatKeys {
    const fn of(&self, side: Side) -> &[u8; 32] {
        match side {
            Side::Primary => &self.primary,
            Side::Backup => &self.backup,
        }
    }
}

/// How a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vitals {
    /// The last log frame that it has received, and all before it. Of the primary: the last one that it has sent.
    pub received: LogSeq,
    /// The exit that its guest has reached.
    pub replayed: ExitOrdinal,
    /// Whether it has something to replay: a backup that has, and does not get on, is sick.
    pub busy: bool,
}

/// What an authentic datagram tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// How the other site is; none where a later datagram has told already.
    pub vitals: Option<Vitals>,
    /// A round trip, if it ends one.
    pub round_trip: Option<Duration>,
}

/// Datagrams that were dropped, by why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// Not of the length, version or form of a heartbeat.
    pub malformed: u64,
    /// Of another session.
    pub foreign: u64,
    /// From this end, sent back to it.
    pub reflected: u64,
    /// Made by somebody without the key.
    pub forged: u64,
    /// Seen before, or too old to tell.
    pub replayed: u64,
}

impl Dropped {
    /// Each number with the name used in JSON of why.
    #[must_use]
    pub const fn by_name(&self) -> [(&'static str, u64); 5] {
        [
            ("heartbeat-malformed", self.malformed),
            ("heartbeat-foreign", self.foreign),
            ("heartbeat-reflected", self.reflected),
            ("heartbeat-forged", self.forged),
            ("heartbeat-replayed", self.replayed),
        ]
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.malformed + self.foreign + self.reflected + self.forged + self.replayed
    }
}

/// Which counters were seen: the highest, and a bit for each of the 63 before it.
#[derive(Debug, Default)]
struct Window {
    highest: u64,
    seen: u64,
}

impl Window {
    /// Notes `counter`. Answers whether it is new.
    fn note(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            let step = counter - self.highest;
            self.seen = u32::try_from(step)
                .ok()
                .and_then(|step| self.seen.checked_shl(step))
                .unwrap_or(0)
                | 1;
            self.highest = counter;
            return true;
        }
        let bit = u32::try_from(self.highest - counter)
            .ok()
            .and_then(|age| 1_u64.checked_shl(age));
        let Some(bit) = bit else { return false };
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }
}

/// One end of a session's heartbeats, both directions.
#[derive(Debug)]
pub struct Heartbeats {
    side: Side,
    tag: Tag,
    keys: HeartbeatKeys,
    /// Those of the connection before, until the other end is heard to use the new ones.
    keys_before: Option<HeartbeatKeys>,
    counter: u64,
    window: Window,
    /// The stamp of the newest datagram, and when it was heard; none once it was echoed.
    to_echo: Option<(u64, Duration)>,
    dropped: Dropped,
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn mac(key: &[u8; 32], content: &Content) -> [u8; MAC_BYTES] {
    let mut mac = [0; MAC_BYTES];
    mac.copy_from_slice(&blake3::keyed_hash(key, content.as_bytes()).as_bytes()[..MAC_BYTES]);
    mac
}

/// Whether two MACs are equal, in a time that does not tell where they differ (as [`blake3::Hash`] compares).
fn same(one: &[u8; MAC_BYTES], other: &[u8; MAC_BYTES]) -> bool {
    let padded = |mac: &[u8; MAC_BYTES]| {
        let mut bytes = [0; blake3::OUT_LEN];
        bytes[..MAC_BYTES].copy_from_slice(mac);
        blake3::Hash::from_bytes(bytes)
    };
    padded(one) == padded(other)
}

impl Heartbeats {
    /// For the end `side` of `session`, with the keys of its first connection.
    #[must_use]
    pub fn new(session: &Session, side: Side, keys: HeartbeatKeys) -> Self {
        Self {
            side,
            tag: session.tag(),
            keys,
            keys_before: None,
            counter: 0,
            window: Window::default(),
            to_echo: None,
            dropped: Dropped::default(),
        }
    }

    /// A new connection stands, with these keys.
    pub fn rekey(&mut self, keys: HeartbeatKeys) {
        self.keys_before = Some(std::mem::replace(&mut self.keys, keys));
    }

    /// The next datagram to send.
    ///
    /// # Panics
    /// After 2^64 datagrams, which no session lives to see.
    pub fn next(&mut self, now: Duration, vitals: Vitals) -> [u8; HEARTBEAT_BYTES] {
        self.counter = self.counter.checked_add(1).expect("fewer than 2^64 are sent");
        let echo = self.to_echo.take();
        let (echo_of_us, heard) = echo.unwrap_or((0, now));
        let held = micros(now.saturating_sub(heard));
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let content = Content {
            version: VERSION,
            side: self.side as u8,
            flags: flag(vitals.busy, FLAG_BUSY) | flag(echo.is_some(), FLAG_ECHO),
            zero: 0,
            tag: self.tag.0,
            counter: self.counter.into(),
            sent_us: micros(now).into(),
            echo_of_us: echo_of_us.into(),
            echo_held_us: u32::try_from(held).unwrap_or(u32::MAX).into(),
            received: vitals.received.0.into(),
            replayed: vitals.replayed.get().into(),
        };
        let mac = mac(self.keys.of(self.side), &content);
        zerocopy::transmute!(Datagram { content, mac })
    }

    /// Takes a datagram that has arrived. Answers with nothing where it was dropped.
    pub fn receive(&mut self, now: Duration, datagram: &[u8]) -> Option<Heard> {
        let content = self.authentic(datagram)?;
        let counter = content.counter.get();
        let is_latest = counter > self.window.highest;
        if !self.window.note(counter) {
            self.dropped.replayed += 1;
            return None;
        }
        if is_latest {
            self.to_echo = Some((content.sent_us.get(), now));
        }
        Some(Heard {
            vitals: is_latest.then(|| Vitals {
                received: LogSeq(content.received.get()),
                replayed: ExitOrdinal::new(content.replayed.get()),
                busy: content.flags & FLAG_BUSY != 0,
            }),
            round_trip: round_trip(now, &content),
        })
    }

    /// What the datagram holds, if the other end of this session has made it.
    fn authentic(&mut self, datagram: &[u8]) -> Option<Content> {
        let sound = Datagram::read_from_bytes(datagram)
            .ok()
            .filter(|Datagram { content, .. }| {
                content.version == VERSION
                    && content.zero == 0
                    && content.flags & !(FLAG_BUSY | FLAG_ECHO) == 0
            });
        let Some((from, Datagram { content, mac })) =
            sound.and_then(|sound| Some((Side::parse(sound.content.side)?, sound)))
        else {
            self.dropped.malformed += 1;
            return None;
        };
        if content.tag != self.tag.0 {
            self.dropped.foreign += 1;
            return None;
        }
        if from == self.side {
            self.dropped.reflected += 1;
            return None;
        }
        let fits = |keys: &HeartbeatKeys| same(&mac, &self::mac(keys.of(from), &content));
        if fits(&self.keys) {
            self.keys_before = None;
        } else if !self.keys_before.as_ref().is_some_and(fits) {
            self.dropped.forged += 1;
            return None;
        }
        Some(content)
    }

    /// What was dropped so far.
    #[must_use]
    pub const fn dropped(&self) -> Dropped {
        self.dropped
    }
}

/// The round trip that a datagram's echo ends. None where the echo cannot be true.
fn round_trip(now: Duration, content: &Content) -> Option<Duration> {
    if content.flags & FLAG_ECHO == 0 {
        return None;
    }
    let held = u64::from(content.echo_held_us.get());
    let micros = micros(now)
        .checked_sub(content.echo_of_us.get())?
        .checked_sub(held)?;
    Some(Duration::from_micros(micros))
}
