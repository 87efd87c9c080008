//! The frames of a session.
//!
//! ```text
//!   on the line:  length 4 │ kind 1 │ fields, little-endian           (length: of all that follows it)
//!
//!     (length 0: nothing but that the process runs; from an end that is silent for some seconds)
//!   1 Hello     version 4 │ role 1 │ flags 1 │ image length 8 │ 0/1: summary
//!   2 Marks     T→S  last 1 │ count 4 │ runs 12 each: first 8, count 4   what the target has marked
//!   3 Work      S→T  as Marks                                          what both compare
//!   4 Regions   T→S  first 8 │ count 2 │ a bit for each that is not zeros │ 32 for each of those
//!   5 Zeros     T→S  first region 8 │ count 8                          regions of zeros
//!   6 Ask       S→T  count 4 │ regions 8 each                          whose leaves differ?
//!   7 Leaves    T→S  region 8 │ bits 2 │ 32 for each bit               the leaves of a region
//!   8 Data      S→T  first leaf 8 │ count 1 │ zstd? 1 │ bytes          what they shall hold
//!   9 Clear     S→T  first leaf 8 │ count 8                            leaves that shall be zeros
//!  10 Settled   S→T  last 1 │ count 4 │ runs of regions 12 each        equal now, once flushed
//!  11 Compared  S→T  regions 8                                         done with so many: equal, or all sent
//!  12 End       S→T  root 32                                           what the target must be now
//!  13 Equal     T→S  root 32                                           what it is, durably
//!  14 Abort     both length 2 │ text                                   why this ends here
//!
//!     (instead of a session)
//!  15 Digest    version 4 │ flags 1                                    what names your image's content?
//!  16 Hashing   done 8 │ of 8                                          bytes hashed so far
//!  17 Digested  length 8 │ hashed 8 │ content root 32 │ 0/1: BLAKE3 32 that
//! ```
//!
//! A frame is at most [`FRAME_BYTES_MAX`] long, counts are checked against limits before anything is made of them,
//! and bytes that are left over are an error. Whether a run lies within the image is the session's to judge.

#[cfg(test)]
pub(crate) mod tests;

use crate::codec::{Malformed, Reader, Writer};
use crate::decision::{Consent, Summary};
use crate::limits::{FRAME_BYTES_MAX, FRAME_REGIONS_MAX, FRAME_RUNS_MAX, REASON_BYTES_MAX};
use crate::replica::{Lineage, ReplicaId, State, VmId, read_option, write_option};
use crate::tree::{ContentRoot, Value};
use crate::units::{REGION_LEAVES, Run, on_disk};

/// The version that is spoken.
pub(crate) const VERSION: u32 = 3;

/// Which part an end plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its replica is copied from.
    Source,
    /// Its replica is overwritten.
    Target,
}

impl Role {
    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Source => Self::Target,
            Self::Target => Self::Source,
        }
    }
}

/// How an end introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) version: u32,
    pub(crate) role: Role,
    pub(crate) consent: Consent,
    /// Nothing shall be changed; it shall only be found out what would be.
    pub(crate) dry_run: bool,
    pub(crate) length: u64,
    /// None if any two images are compared.
    pub(crate) summary: Option<Summary>,
}

/// What of an image is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestRequest {
    /// The content root alone: holes and zeros take no time then.
    pub content_only: bool,
    /// Whether all is read, also what did not change since the last digest.
    pub everything: bool,
}

/// What names an image's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digested {
    /// Bytes of the image.
    pub bytes: u64,
    /// Of these, read or passed over as holes; the rest was known.
    pub bytes_hashed: u64,
    /// The content root.
    pub content: ContentRoot,
    /// BLAKE3 of the image, if it was wanted.
    pub plain: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Box<Hello>),
    Marks {
        runs: Vec<Run>,
        last: bool,
    },
    Work {
        runs: Vec<Run>,
        last: bool,
    },
    Regions {
        first: u64,
        values: Vec<Value>,
    },
    Zeros(Run),
    Ask(Vec<u64>),
    Leaves {
        region: u64,
        values: Vec<Value>,
    },
    Data {
        leaves: Run,
        compressed: bool,
        bytes: Vec<u8>,
    },
    Clear(Run),
    Settled {
        regions: Vec<Run>,
        last: bool,
    },
    Compared(u64),
    End(ContentRoot),
    Equal(ContentRoot),
    Abort(String),
    Digest(DigestRequest),
    Hashing {
        done: u64,
        of: u64,
    },
    Digested(Digested),
}

const FLAG_DISCARD: u8 = 1;
const FLAG_COMPARE_ALL: u8 = 2;
const FLAG_DRY_RUN: u8 = 4;
const FLAG_MARKS: u8 = 8;
const FLAG_CHANGED: u8 = 16;

impl Frame {
    /// The body: all but its length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::default();
        match self {
            Self::Hello(hello) => hello.write(to.u8(1)),
            Self::Marks { runs, last } => write_runs(to.u8(2), runs, *last),
            Self::Work { runs, last } => write_runs(to.u8(3), runs, *last),
            Self::Regions { first, values } => {
                let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
                write_values(to.u8(4).u64(*first).u16(count), values);
            }
            Self::Zeros(regions) => {
                to.u8(5).u64(regions.first).u64(regions.count);
            }
            Self::Ask(regions) => {
                to.u8(6).count(regions.len());
                for region in regions {
                    to.u64(*region);
                }
            }
            Self::Leaves { region, values } => {
                let count = u16::try_from(values.len()).unwrap_or(u16::MAX);
                write_values(to.u8(7).u64(*region).u16(count), values);
            }
            Self::Data {
                leaves,
                compressed,
                bytes,
            } => {
                let count = u8::try_from(leaves.count).unwrap_or(u8::MAX);
                to.u8(8)
                    .u64(leaves.first)
                    .u8(count)
                    .u8(u8::from(*compressed))
                    .bytes(bytes);
            }
            Self::Clear(leaves) => {
                to.u8(9).u64(leaves.first).u64(leaves.count);
            }
            Self::Settled { regions, last } => write_runs(to.u8(10), regions, *last),
            Self::Compared(regions) => {
                to.u8(11).u64(*regions);
            }
            Self::End(root) => {
                to.u8(12).bytes(&root.0);
            }
            Self::Equal(root) => {
                to.u8(13).bytes(&root.0);
            }
            Self::Abort(reason) => {
                let length = reason.floor_char_boundary(REASON_BYTES_MAX);
                to.u8(14).bytes(&reason.as_bytes()[..length]);
            }
            Self::Digest(request) => {
                let flags = u8::from(request.content_only) | u8::from(request.everything) << 1;
                to.u8(15).u32(VERSION).u8(flags);
            }
            Self::Hashing { done, of } => {
                to.u8(16).u64(*done).u64(*of);
            }
            Self::Digested(digested) => {
                to.u8(17).u64(digested.bytes).u64(digested.bytes_hashed);
                to.bytes(&digested.content.0);
                write_option(&mut to, digested.plain.as_ref());
            }
        }
        to.0
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > FRAME_BYTES_MAX {
            return Err(Malformed::Long);
        }
        let mut from = Reader::new(body);
        let frame = match from.u8()? {
            1 => Self::Hello(Box::new(Hello::read(&mut from)?)),
            2 => read_runs(&mut from).map(|(runs, last)| Self::Marks { runs, last })?,
            3 => read_runs(&mut from).map(|(runs, last)| Self::Work { runs, last })?,
            4 => Self::Regions {
                first: from.u64()?,
                values: read_values(&mut from, FRAME_REGIONS_MAX)?,
            },
            5 => Self::Zeros(Run::new(from.u64()?, from.u64()?)),
            6 => {
                let count = from.count(FRAME_REGIONS_MAX, "count of regions")?;
                Self::Ask((0..count).map(|_| from.u64()).collect::<Result<_, _>>()?)
            }
            7 => Self::Leaves {
                region: from.u64()?,
                values: read_values(&mut from, REGION_LEAVES)?,
            },
            8 => Self::Data {
                leaves: Run::new(from.u64()?, u64::from(from.u8()?)),
                compressed: from.flag("compression")?,
                bytes: from.rest().to_vec(),
            },
            9 => Self::Clear(Run::new(from.u64()?, from.u64()?)),
            10 => read_runs(&mut from).map(|(regions, last)| Self::Settled { regions, last })?,
            11 => Self::Compared(from.u64()?),
            12 => Self::End(ContentRoot(from.array()?)),
            13 => Self::Equal(ContentRoot(from.array()?)),
            14 => read_reason(&mut from).map(Self::Abort)?,
            15 => read_request(&mut from).map(Self::Digest)?,
            16 => Self::Hashing {
                done: from.u64()?,
                of: from.u64()?,
            },
            17 => Self::Digested(Digested {
                bytes: from.u64()?,
                bytes_hashed: from.u64()?,
                content: ContentRoot(from.array()?),
                plain: read_option(&mut from, "BLAKE3")?,
            }),
            _ => return Err(Malformed::Field("kind")),
        };
        from.end()?;
        if let Self::Data { leaves, .. } = &frame
            && !(1..=on_disk(REGION_LEAVES)).contains(&leaves.count)
        {
            return Err(Malformed::Field("count of leaves"));
        }
        Ok(frame)
    }

    /// What it is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Marks { .. } => "Marks",
            Self::Work { .. } => "Work",
            Self::Regions { .. } => "Regions",
            Self::Zeros(_) => "Zeros",
            Self::Ask(_) => "Ask",
            Self::Leaves { .. } => "Leaves",
            Self::Data { .. } => "Data",
            Self::Clear(_) => "Clear",
            Self::Settled { .. } => "Settled",
            Self::Compared(_) => "Compared",
            Self::End(_) => "End",
            Self::Equal(_) => "Equal",
            Self::Abort(_) => "Abort",
            Self::Digest(_) => "Digest",
            Self::Hashing { .. } => "Hashing",
            Self::Digested(_) => "Digested",
        }
    }
}

impl Hello {
    fn write(&self, to: &mut Writer) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let summary = self.summary.as_ref();
        let flags = flag(self.consent.discard, FLAG_DISCARD)
            | flag(self.consent.compare_all, FLAG_COMPARE_ALL)
            | flag(self.dry_run, FLAG_DRY_RUN)
            | flag(summary.is_some_and(|summary| summary.has_marks), FLAG_MARKS)
            | flag(
                summary.is_some_and(|summary| summary.was_changed_behind),
                FLAG_CHANGED,
            );
        to.u32(self.version);
        to.u8(u8::from(self.role == Role::Target))
            .u8(flags)
            .u64(self.length)
            .u8(u8::from(summary.is_some()));
        let Some(summary) = summary else { return };
        summary.vm.write(to);
        to.bytes(&summary.replica.0);
        summary.state.write(to);
        to.u8(u8::from(summary.lineage.is_some()));
        if let Some(lineage) = &summary.lineage {
            lineage.write(to);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = from.u32()?;
        // What follows is of another shape; that there are two versions is worth telling all the same.
        if version != VERSION {
            return Err(Malformed::Field("version"));
        }
        let role = if from.flag("role")? {
            Role::Target
        } else {
            Role::Source
        };
        let flags = from.u8()?;
        let set = |flag: u8| flags & flag != 0;
        if flags >= FLAG_CHANGED * 2 {
            return Err(Malformed::Field("flags"));
        }
        Ok(Self {
            version,
            role,
            consent: Consent {
                discard: set(FLAG_DISCARD),
                compare_all: set(FLAG_COMPARE_ALL),
            },
            dry_run: set(FLAG_DRY_RUN),
            length: from.u64()?,
            summary: match from.flag("summary")? {
                true => Some(Summary {
                    has_marks: set(FLAG_MARKS),
                    was_changed_behind: set(FLAG_CHANGED),
                    vm: VmId::read(from)?,
                    replica: ReplicaId(from.array()?),
                    state: State::read(from)?,
                    lineage: match from.flag("lineage")? {
                        true => Some(Lineage::read(from)?),
                        false => None,
                    },
                }),
                false if flags & (FLAG_MARKS | FLAG_CHANGED) != 0 => return Err(Malformed::Field("flags")),
                false => None,
            },
        })
    }
}

fn read_request(from: &mut Reader<'_>) -> Result<DigestRequest, Malformed> {
    if from.u32()? != VERSION {
        return Err(Malformed::Field("version"));
    }
    let flags = from.u8()?;
    if flags > 3 {
        return Err(Malformed::Field("flags"));
    }
    Ok(DigestRequest {
        content_only: flags & 1 != 0,
        everything: flags & 2 != 0,
    })
}

fn write_runs(to: &mut Writer, runs: &[Run], last: bool) {
    to.u8(u8::from(last)).count(runs.len());
    for run in runs {
        to.u64(run.first)
            .u32(u32::try_from(run.count).unwrap_or(u32::MAX));
    }
}

fn read_runs(from: &mut Reader<'_>) -> Result<(Vec<Run>, bool), Malformed> {
    let last = from.flag("end of a list")?;
    let count = from.count(FRAME_RUNS_MAX, "count of runs")?;
    let run = |from: &mut Reader<'_>| Ok(Run::new(from.u64()?, u64::from(from.u32()?)));
    let runs: Result<_, Malformed> = (0..count).map(|_| run(from)).collect();
    Ok((runs?, last))
}

/// A bit for each value, then those that are not zeros.
fn write_values(to: &mut Writer, values: &[Value]) {
    for eight in values.chunks(8) {
        let bits = eight
            .iter()
            .rev()
            .fold(0, |bits, value| bits << 1 | u8::from(!value.is_zero()));
        to.u8(bits);
    }
    for value in values.iter().filter(|value| !value.is_zero()) {
        to.bytes(&value.0);
    }
}

fn read_values(from: &mut Reader<'_>, most: usize) -> Result<Vec<Value>, Malformed> {
    let count = usize::from(from.u16()?);
    if count == 0 || count > most {
        return Err(Malformed::Field("count of values"));
    }
    let bits = from.bytes(count.div_ceil(8))?;
    let value = |index: usize| match bits[index / 8] >> (index % 8) & 1 {
        0 => Ok(Value::ZERO),
        _ => from.array().map(Value),
    };
    (0..count).map(value).collect()
}

fn read_reason(from: &mut Reader<'_>) -> Result<String, Malformed> {
    let bytes = from.rest();
    if bytes.len() > REASON_BYTES_MAX {
        return Err(Malformed::Field("reason"));
    }
    // It is shown on a terminal: nothing in it may steer that.
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    Ok(String::from_utf8_lossy(bytes).chars().map(shown).collect())
}
