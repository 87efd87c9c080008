//! Disk replicas: what is known of each, and how two of them become equal (D1 to D6).
#![forbid(unsafe_code)]

pub(crate) mod codec;
pub mod decision;
pub mod image;
mod leaf_set;
pub mod limits;
pub mod protocol;
pub mod replica;
pub mod tree;
pub mod units;

pub use codec::Malformed;
pub use leaf_set::LeafSet;
