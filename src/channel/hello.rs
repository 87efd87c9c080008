//! The first frame of a connection, both ways: who means to talk about what, and from where on.
//!
//! ```text
//!   body   0       8         10     11      12            44         52         60          68
//!          ├ magic ┼ version ┼ side ┼ flags ┼ recipe (32) ┼ incarn.  ┼ generat. ┼ pairing  ┼ reached (8) ┤
//!          76                                  then, each with its length (u8) before it
//!          ├ CPU profile ┼ VM's name ┤
//! ```
//!
//! Little-endian. Flag 1: the sender has asked the tiebreaker to go on alone, and does not know the answer yet. `reached`
//! is, of the primary, the last log frame that it has sent in this session; of the backup, the last one that it has.
//!
//! A reader looks at magic and version first: what follows may be other things in another version. There is one way
//! to write a Hello.

use antipode_certs::Name;
use antipode_tiebreaker::{Generation, Incarnation, PairingId};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::session::{LogSeq, Session, Side};
use crate::base::limits::{CPU_PROFILE_BYTES_MAX, VM_NAME_BYTES_MAX};

/// The version of the channel that this program speaks.
pub const CHANNEL_VERSION: u16 = 3;

const MAGIC: [u8; 8] = *b"ANTICHAN";
const FLAG_CLAIMED: u8 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U16,
    side: u8,
    flags: u8,
    recipe: [u8; 32],
    incarnation: U64,
    generation: U64,
    pairing: U64,
    reached: U64,
}

/// Bytes of the longest Hello.
pub(super) const HELLO_BYTES_MAX: usize = size_of::<Fixed>() + 2 + CPU_PROFILE_BYTES_MAX + VM_NAME_BYTES_MAX;

/// What both copies of the VM must have in common, or they would not stay in lockstep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Name and version of the CPU profile (E3), at most 64 bytes.
    pub cpu_profile: String,
    /// BLAKE3 of what the machine is made of (E2).
    pub recipe: [u8; 32],
}

/// Who one end is, and what it means to talk about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The session.
    pub session: Session,
    /// Which end of it.
    pub side: Side,
    /// What its copy of the VM is.
    pub common: Common,
    /// Of the primary: the last log frame that it has sent. Of the backup: the last one that it has, and all before it.
    pub reached: LogSeq,
    /// Whether it has asked the tiebreaker to go on alone: then no session is resumed (P2).
    pub claimed: bool,
}

/// Bytes that are no Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// They begin otherwise.
    #[error("it does not begin as a Hello of Antipode does")]
    Magic,
    /// Of another version.
    #[error("it speaks version {0} of the channel, and this antipode speaks {CHANNEL_VERSION}")]
    Version(u16),
    /// A field that cannot be.
    #[error("its {0} is none that can be")]
    Field(&'static str),
    /// Too few bytes, or too many.
    #[error("it has another length than its fields")]
    Length,
}

/// Why two ends do not talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub enum Refusal {
    /// Another version of the channel.
    #[error("the two sites run versions of antipode that cannot talk about a VM")]
    Version = 1,
    /// Both say that they are the primary, or both the backup.
    #[error("both sites take themselves for the same end of the pairing")]
    Side = 2,
    /// Another VM.
    #[error("the other site means another VM")]
    Vm = 3,
    /// An earlier or later VM of the same name.
    #[error("the other site means an earlier or later VM of this name")]
    Incarnation = 4,
    /// Begun under another record.
    #[error("the pairing was begun under another generation")]
    Generation = 5,
    /// Another pairing.
    #[error("the other site means another pairing")]
    Pairing = 6,
    /// The two copies have other processors.
    #[error("the two copies have different CPU profiles")]
    CpuProfile = 7,
    /// The two copies are made of other things.
    #[error("the two copies are made of different kernels, command lines or devices")]
    Recipe = 8,
    /// One of both has asked to go on alone.
    #[error("one of the two sites has asked to go on alone")]
    Claimed = 9,
    /// What one needs to go on from, the other no longer has.
    #[error("the two copies have lost each other: a part of the log is gone")]
    LogGone = 10,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::Version,
        Self::Side,
        Self::Vm,
        Self::Incarnation,
        Self::Generation,
        Self::Pairing,
        Self::CpuProfile,
        Self::Recipe,
        Self::Claimed,
        Self::LogGone,
    ];

    /// The name used in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Side => "side",
            Self::Vm => "vm",
            Self::Incarnation => "incarnation",
            Self::Generation => "generation",
            Self::Pairing => "pairing",
            Self::CpuProfile => "cpu-profile",
            Self::Recipe => "recipe",
            Self::Claimed => "claimed",
            Self::LogGone => "log-gone",
        }
    }
}

impl Hello {
    /// Whether an end that says `ours` may talk with one that says `theirs`. The backup looks at where the primary's log
    /// ends as well; the primary, at [`super::Sender::resume`], at where the backup's does.
    ///
    /// # Errors
    /// The first difference, of the most general kind first.
    pub fn judge(ours: &Self, theirs: &Self) -> Result<(), Refusal> {
        let (own, other) = (&ours.session, &theirs.session);
        let log_is_whole = ours.side == Side::Primary || theirs.reached >= ours.reached;
        let checks = [
            (own.vm == other.vm, Refusal::Vm),
            (own.incarnation == other.incarnation, Refusal::Incarnation),
            (own.generation == other.generation, Refusal::Generation),
            (own.pairing == other.pairing, Refusal::Pairing),
            (ours.side == theirs.side.other(), Refusal::Side),
            (
                ours.common.cpu_profile == theirs.common.cpu_profile,
                Refusal::CpuProfile,
            ),
            (ours.common.recipe == theirs.common.recipe, Refusal::Recipe),
            (!ours.claimed && !theirs.claimed, Refusal::Claimed),
            (log_is_whole, Refusal::LogGone),
        ];
        match checks.into_iter().find(|(holds, _)| !holds) {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        }
    }

    /// Appends it to `bytes`.
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        let fixed = Fixed {
            magic: MAGIC,
            version: CHANNEL_VERSION.into(),
            side: self.side as u8,
            flags: if self.claimed { FLAG_CLAIMED } else { 0 },
            recipe: self.common.recipe,
            incarnation: self.session.incarnation.0.into(),
            generation: self.session.generation.0.into(),
            pairing: self.session.pairing.0.into(),
            reached: self.reached.0.into(),
        };
        bytes.extend_from_slice(fixed.as_bytes());
        for text in [self.common.cpu_profile.as_str(), self.session.vm.as_str()] {
            let length = u8::try_from(text.len()).expect("names of VMs and CPU profiles are short");
            bytes.push(length);
            bytes.extend_from_slice(text.as_bytes());
        }
    }

    /// Reads the body of a frame.
    pub(super) fn decode(body: &[u8]) -> Result<Self, HelloError> {
        if !body.starts_with(&MAGIC) {
            return Err(HelloError::Magic);
        }
        let (version, _) = U16::read_from_prefix(&body[MAGIC.len()..]).map_err(|_| HelloError::Length)?;
        if version.get() != CHANNEL_VERSION {
            return Err(HelloError::Version(version.get()));
        }
        let (fixed, rest) = Fixed::read_from_prefix(body).map_err(|_| HelloError::Length)?;
        let (cpu_profile, rest) = text(rest)?;
        let (vm, rest) = text(rest)?;
        if !rest.is_empty() {
            return Err(HelloError::Length);
        }
        if cpu_profile.is_empty() || cpu_profile.len() > CPU_PROFILE_BYTES_MAX {
            return Err(HelloError::Field("CPU profile"));
        }
        if fixed.flags & !FLAG_CLAIMED != 0 {
            return Err(HelloError::Field("flags"));
        }
        Ok(Self {
            session: Session {
                vm: vm.parse::<Name>().map_err(|_| HelloError::Field("VM's name"))?,
                incarnation: Incarnation(fixed.incarnation.get()),
                generation: Generation(fixed.generation.get()),
                pairing: PairingId(fixed.pairing.get()),
            },
            side: Side::parse(fixed.side).ok_or(HelloError::Field("side"))?,
            common: Common {
                cpu_profile: cpu_profile.to_owned(),
                recipe: fixed.recipe,
            },
            reached: LogSeq(fixed.reached.get()),
            claimed: fixed.flags & FLAG_CLAIMED != 0,
        })
    }
}

/// A text behind its length, and what comes after it.
fn text(bytes: &[u8]) -> Result<(&str, &[u8]), HelloError> {
    let (length, rest) = bytes.split_first().ok_or(HelloError::Length)?;
    let (text, rest) = rest
        .split_at_checked(usize::from(*length))
        .ok_or(HelloError::Length)?;
    let text = std::str::from_utf8(text).map_err(|_| HelloError::Field("text"))?;
    Ok((text, rest))
}
