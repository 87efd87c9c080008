//! The lab: two whole datacenters on one machine, without root and without a usable KVM.
//!
//! From the ground up: [`archive`] (formats that the kernel boots from) and [`debian`] (packages, fetched and not
//! installed) → [`image`] (guests that boot); [`switch`] (the network) and [`agent`] (the lab's hand in a host) →
//! [`host`] (emulated machines with KVM; a [`medium`] is a disk of theirs that can fail) → [`playground`] (datacenters of them) → [`scenario`] (what is shown there) and
//! `bench` (Antipode against QEMU). [`load`] works a guest and keeps account of it in the [services' own words](talk), [`judge`] says what
//! the switch and the disks have seen. [`heal`]: copies that differ, and what it costs to keep them the same. [`mirror`]: disks under a writer that never stops. [`tiebreaker`] needs processes of this machine alone.

pub mod agent;
pub mod archive;
pub mod bench;
pub mod debian;
pub mod heal;
pub mod host;
pub mod image;
pub mod judge;
pub mod load;
pub mod medium;
pub mod mirror;
pub mod playground;
pub mod scenario;
pub mod switch;
pub mod talk;
pub mod tiebreaker;
