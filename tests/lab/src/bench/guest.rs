//! The guest that is measured: the Redis image, unchanged, with the program that carries loads out laid over it. Both
//! contestants boot the very same bytes.

use crate::image::{Image, Service};
use crate::load::guest::{LARGE_PACKETS, ORDER_PORT};
use anyhow::{Context, Result};
use std::path::Path;

/// What the guest boots.
pub(super) const SERVICE: Service = Service::Redis;

/// Guest RAM.
pub(super) const MEMORY_MIB: u32 = 256;

/// The guest's address and its host's, on the TAP between them.
pub(super) const ADDRESS: &str = "10.9.0.10";
pub(super) const HOST_ADDRESS: &str = "10.9.0.1";

/// The file system's part of the disk; what follows is the load's.
pub(super) const FILE_SYSTEM_MIB: u64 = SERVICE.disk_bytes() >> 20;

/// The load's part of the disk.
pub(super) const LOAD_MIB: u64 = 128;

/// Words of the guest's command line that both contestants get; Antipode adds its own.
pub(super) fn command_line(image: &Image) -> String {
    format!(
        "quiet {LARGE_PACKETS} {}",
        image.command_line(Some(&format!("{ADDRESS}/24")), None)
    )
}

/// Writes the initrd: the image's, then ours.
pub(super) fn write_initrd(image: &Image, load: &Path, to: &Path) -> Result<()> {
    let (start, length) = (FILE_SYSTEM_MIB << 20, LOAD_MIB << 20);
    let serve = format!("serve {ORDER_PORT} /dev/vda {start} {length}");
    crate::load::guest::write_initrd(image, load, &[serve], to)
        .with_context(|| format!("writing {}", to.display()))
}
