//! Two datacenters to play with: hosts joined by a switch, and ways in from other terminals.
//!
//! ```text
//!                    segment "wan" 10.8.0.0/24 (eth1 of sites)
//!        ┌───────────────┬───────────────┬──────── tie-1 … tie-3
//!     site-a          site-b
//!        └───────────────┴───────────────┬──────── client
//!                    segment "lan" 10.9.0.0/24 (eth0 of sites)
//! ```
//!
//! Every cable is a port of the switch called `<host>.<segment>`, and each way of it can be shaped by itself.
//!
//! - [`topology`]: which hosts, cards and addresses. Pure.
//! - [`cluster`]: a switch and hosts, up together; scenarios use it as well.
//! - `service`: what `up` offers to other processes: one socket that leads to every host's agent.
//! - `shell`: a terminal on a host.
//! - `report`: what people read.
//! - [`cli`]: `up`, `shell`, `exec`, `link`, `links`, `capture`.
//!
//! A playground that is up is described by `target/lab/up/<name>.json`, removed when it ends. If its process is
//! killed, everything in it dies with it, and the next one of that name replaces the description.

pub mod cli;
pub mod cluster;
mod report;
mod service;
mod shell;
pub mod topology;
