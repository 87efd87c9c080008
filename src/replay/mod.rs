//! Record and replay: a VM's execution as a log of everything that was no function of its own state (R1, R2).
//!
//! ```text
//!   Live ──▶ Recorder ──▶ Vm            Vm ◀── Replayer ◀── LogReader ◀─┐
//!               └──▶ LogWriter ──▶ file ────────────────────────────────┘
//!
//!   recipe      what the machine was made of, pinned by digest
//!   catalogue   the entries: everything that enters, and what leaves
//!   batch       entries of a stretch of execution, and a check of every exit in it
//!   framing     batches as frames: chained, compressed
//!   log         frames in a file
//!   standby     a replayer that goes on alone where the log ends
//!   repair      what makes a copy the same again, in pieces and whole
//!   checks      the rolling digest of exits, and what differs at the end of an epoch
//!   time_rule   virtual time between two samples
//!   noise       disturbs a replay on purpose
//!   position    where a replay can be held
//!   machine     a machine at rest: digests, and dumps to compare byte for byte
//! ```
//!
//! # Positions
//!
//! An entry belongs to a counted exit n and entered, in the order of the log, while the machine stood there: a time that
//! n's own handling read, then everything else after it ([`crate::machine::Timeline`]). A batch ends with its watermark
//! `through`: the recorder has reached that exit, and no entry that the log does not show yet lies before it. A replayer
//! handles an exit only when the log reaches past it, because entries of exit `through` itself may be in the next batch.
//! The end of a log that was cut off is therefore an exit that was reached and not handled.
//!
//! # Divergence
//!
//! Every counted exit leaves one byte of a rolling digest in the log, over its kind, its operands, what was written, all
//! general registers, and the posted writes before it. The first exit whose byte differs is named; an execution that
//! differs is seen within an exit or two (a wrong byte agrees by chance once in 256). What leaves the VM is compared by a
//! digest of its own, at its position. At the end, RAM and registers are compared whole.

mod batch;
mod carried;
mod catalogue;
mod checks;
mod codec;
mod feed;
mod framing;
mod log;
mod machine;
mod noise;
mod page_delta;
mod patience;
mod position;
mod recipe;
mod recorder;
mod repair;
mod replayer;
mod standby;
mod state_file;
mod time_rule;

pub use batch::{Batch, End};
pub use carried::Carried;
pub use catalogue::{Entry, OutputKind, RepairPiece};
pub(crate) use checks::differences;
pub use codec::CodecError;
pub use feed::{Feed, LogSource};
pub use framing::{Deframer, FRAME_OF_LOG_BYTES_MAX, FrameError, Framer};
pub use log::{LogError, LogReader, LogWriter};
pub use machine::{MachineDigests, dump, registers};
pub use noise::NoiseCounts;
pub use position::{NoPosition, Position};
pub use recipe::{DiskRecipe, Origin, Recipe, RecipeError};
pub use recorder::{Cadence, LogSink, Logged, Recorder};
pub use repair::{CHECKPOINT, Repair};
pub use replayer::Awaited;
pub use replayer::Replayer;
pub use standby::{Reserve, Standby};
pub use state_file::{SavedMachine, StateError, StateHead, save_machine};
