//! What the two sites of a VM decide, and when: pure, without I/O and without a clock.
//!
//! ```text
//!            commands, channel, heartbeats, tiebreaker, the VM itself
//!                                   │ Event
//!        ┌──────────────────────────▼───────────────────────────┐
//!        │ Role: one per VM process; who is live, and who may be │── Effect ──▶ the driver, which does all I/O
//!        │   Detector: is the other one there?  (P4)             │
//!        │   LagControl: how fast may the guest go?  (P3)        │
//!        └───────────────────────────────────────────────────────┘
//!        OutputRule: which outputs may leave  (P1)   ◀── the effects that open, hold, release and discard
//!        Reprotect: when to protect again what has lost its backup   ◀── the role's state
//!        Verifier: are the two disks equal, and what is done where they are not?  (D5)
//!        Copy, Mender: a copy that is another machine becomes the same again  (H2)
//!        Policy: is a copy kept the same by replay, or by checkpoints?  Account: what does it cost?  (H4)
//!        Status: what an operator is shown  (O3)
//! ```
//!
//! [`role`] draws the states. `docs/no-split-brain.md` and `docs/no-lost-output.md` argue what follows from them, and
//! link each claim to the test that checks it.

pub mod detector;
pub mod lag;
pub mod limits;
pub mod mode;
pub mod moment;
pub mod output_rule;
pub mod repair;
pub mod reprotect;
pub mod role;
pub mod status;
pub mod verify;

#[cfg(test)]
mod simulation;
