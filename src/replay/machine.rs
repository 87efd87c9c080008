//! A machine at rest: its digests, and dumps of it for whoever trusts no digest of ours.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::base::guest_memory::GuestMemory;
use crate::base::units::GuestPhys;
use crate::machine::RunError;
use crate::machine::launch::StartedVm;

const CHUNK_BYTES: usize = 1 << 20;

/// BLAKE3 digests of a machine's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDigests {
    /// All RAM, in ascending order.
    pub ram: [u8; 32],
    /// All registers, as [`dump`] writes them.
    pub vcpu: [u8; 32],
}

impl MachineDigests {
    /// The digests of `vm`, which must not be running.
    ///
    /// # Errors
    /// When KVM refuses to show registers.
    pub fn of(vm: &mut StartedVm) -> Result<Self, RunError> {
        let mut hasher = blake3::Hasher::new();
        for_each_chunk(vm.memory(), |_, chunk| {
            hasher.update(chunk);
            Ok(())
        })?;
        Ok(Self {
            ram: *hasher.finalize().as_bytes(),
            vcpu: Self::vcpu_of(vm)?,
        })
    }

    /// The digest of all registers of `vm`, which must not be running.
    ///
    /// # Errors
    /// When KVM refuses to show registers.
    pub fn vcpu_of(vm: &mut StartedVm) -> Result<[u8; 32], RunError> {
        Ok(*blake3::hash(registers(vm)?.as_bytes()).as_bytes())
    }
}

/// Writes `vm`'s RAM to `ram.bin` (a sparse image of guest physical memory) and its registers to `vcpu.txt` in `folder`.
///
/// # Errors
/// When KVM refuses to show registers or the files cannot be written.
pub fn dump(vm: &mut StartedVm, folder: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::Host {
        what: "writing a dump of the machine",
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let text = registers(vm)?;
    std::fs::write(folder.join("vcpu.txt"), text).map_err(failed)?;
    let file = File::create(folder.join("ram.bin")).map_err(failed)?;
    let ranges = GuestMemory::ranges(vm.memory().byte_count());
    let end = ranges.last().map_or(0, |(start, length)| start + length);
    file.set_len(end).map_err(failed)?;
    for_each_chunk(vm.memory(), |address, chunk| {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, address)?;
        }
        Ok(())
    })
}

/// Calls `take` with the address and the bytes of every mebibyte of RAM, in ascending order.
pub(super) fn for_each_chunk(
    memory: &GuestMemory,
    mut take: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
) -> Result<(), RunError> {
    let mut chunk = vec![0; CHUNK_BYTES];
    for (start, length) in GuestMemory::ranges(memory.byte_count()) {
        for address in (start..start + length).step_by(CHUNK_BYTES) {
            memory
                .read(GuestPhys(address), &mut chunk)
                .map_err(std::io::Error::other)
                .and_then(|()| take(address, &chunk))
                .map_err(|source| RunError::Host {
                    what: "reading guest RAM",
                    source,
                })?;
        }
    }
    Ok(())
}

/// All of the vCPU that a guest can see, as text, a register or group of registers a line.
///
/// # Errors
/// When KVM refuses to show them.
pub fn registers(vm: &mut StartedVm) -> Result<String, RunError> {
    let vcpu = vm.vcpu();
    let mut text = String::new();
    let _ = writeln!(text, "{:#x?}", vcpu.registers()?);
    let _ = writeln!(text, "{:#x?}", vcpu.system_registers()?);
    let _ = writeln!(text, "{:#x?}", vcpu.debug_registers()?);
    let _ = writeln!(text, "{:#x?}", vcpu.events()?);
    for (index, value) in vcpu.msrs()? {
        let _ = writeln!(text, "msr {index:#x} {value:#x}");
    }
    for (index, word) in vcpu
        .extended_state()?
        .iter()
        .enumerate()
        .filter(|(_, word)| **word != 0)
    {
        let _ = writeln!(text, "xsave {index} {word:#x}");
    }
    Ok(text)
}
