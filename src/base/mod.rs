//! Ground floor: units, limits, injected time and chance, configuration files, guest memory.
//!
//! Nothing here knows a device or a hypervisor; everything above may import it.

pub mod buffer_pool;
pub mod callers;
pub mod clock;
pub mod configuration;
pub mod entropy;
pub mod guest_memory;
pub mod limits;
pub mod parts;
pub(crate) mod scheduling;
pub mod spans;
pub mod units;
pub(crate) mod zeros;
