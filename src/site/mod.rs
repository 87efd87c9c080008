//! One site: the processes that hold its VMs.

pub mod guest;
