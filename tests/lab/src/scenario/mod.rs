//! Scenarios: a site host that runs a guest under `antipode run`, a client host that talks to it, and what they show.
//!
//! ```text
//!   Setup::prepare ──▶ Stage::open ──▶ Stage::start ──▶ Vm ── wait_for ─▶ ready ── press_power_button ─▶ wait_end
//!   packages, image,   switch, site,   `antipode run`                      │                              VmEnd
//!   static binaries    client                                              ▼
//!                                        client: Stage::connect ─▶ Connection ─▶ talk::write, talk::read
//! ```
//!
//! The site has a disk of its own (`store`), as an operator's server has, and on it lie kernel, initrd and the guest's
//! disk; the guest's card is a TAP in a bridge with the site's card, so a client on another host reaches the guest
//! through two real network stacks and the switch. Nothing is shared between stages: a scenario that needs a fresh
//! host opens a fresh stage.
//!
//! - [`setup`], [`stage`], `store`: what there is before a guest starts.
//! - [`vm`], [`summary`]: a guest under `antipode run`, its console, and what `antipode` says at its end.
//! - [`connection`]: TCP from the client host; `clients` is the same as a load.
//! - `sites`: two sites, a tiebreaker and a client, for a VM that is protected.
//! - [`boot`], [`disk`], [`endings`], [`failover`], [`faults`], [`guests`], [`refusals`], [`replay`]: the commands. Each prints one JSON object as its last line with
//!   `--json`; a failure is `{"ok":false,"error":…}`, a non-zero exit code, and logs that are kept.

pub mod boot;
pub(crate) mod clients;
pub mod connection;
pub mod disk;
pub mod endings;
pub mod error;
mod exit_codes;
pub mod failover;
pub mod faults;
pub mod guests;
pub mod refusals;
pub mod replay;
pub(crate) mod report;
pub mod setup;
pub(crate) mod sites;
pub mod stage;
pub(crate) mod store;
pub mod summary;
pub mod vm;

pub use connection::Connection;
pub use error::{Error, Result};
pub use setup::Setup;
pub use stage::{Stage, StageSpec};
pub use summary::RunSummary;
pub use vm::{Task, Vm, VmEnd, VmSettings};
