//! Loads a stock Debian kernel by direct 64-bit boot, edited so that its execution is deterministic (E2).
//!
//! ```text
//!   kernel file ──bzimage──▶ payload ──payload──▶ vmlinux ──elf──▶ segments, code ──rewrite──▶ EditedKernel
//!                (or a bare vmlinux)                                                               │
//!   operator's words ──cmdline──▶ CommandLine ─────────────────────────────────┐                   │
//!   initrd ─────────────────────────────────────────────────────────────────── place ◀─────────────┘
//!   platform map ──acpi──▶ tables ─────────────────────────────────────────────┘ │
//!                                                                   guest memory ┴──▶ EntryPoint
//! ```
//!
//! [`prepare`], [`CommandLine::build`] and [`check_room`] decide everything that can be refused before anything starts;
//! [`place`] needs the VM's memory and refuses what [`check_room`] does. All are pure functions of their arguments:
//! both sites and every later reset get the same bytes. A kernel file is untrusted input (S2): parsers are bounded by
//! `base::limits` and by the file's own length, and fail with a typed error.
//!
//! What is not here: the `#GP` entry that leads user-mode `RDTSC` to the machine is edited while the guest runs, once
//! its final IDT is known; it returns to the guest through [`EditedKernel::user_return_iretq`].

pub mod acpi;
mod bytes;
pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod error;
mod iretq;
mod layout;
pub mod load;
pub mod params;
pub mod payload;
pub mod rewrite;
mod sweep;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiny;

pub use cmdline::CommandLine;
pub use error::{BootError, CmdlineError, KernelError};
pub use load::{EntryPoint, check_room, place};
pub use params::RANDOM_SEED_BYTES;
pub use rewrite::{RewriteReport, SectionReport, UntouchedSite};

use crate::base::limits::KERNEL_FILE_BYTES_MAX;
use bzimage::SetupHeader;
use elf::Segment;

/// What every Linux kernel says of itself, before its release.
const BANNER: &[u8] = b"Linux version ";
/// Longest release that is read from it.
const RELEASE_BYTES_MAX: usize = 64;

/// A kernel ready to be placed, its code edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditedKernel {
    image: Vec<u8>,
    header: SetupHeader,
    /// Its loadable parts.
    pub segments: Vec<Segment>,
    /// Guest physical address of its first instruction.
    pub entry: u64,
    /// What editing found and did.
    pub report: RewriteReport,
    /// Virtual address of the kernel's `IRETQ` to user mode.
    pub user_return_iretq: u64,
}

impl EditedKernel {
    /// The bytes of one of its segments.
    #[must_use]
    pub fn bytes_of(&self, segment: &Segment) -> &[u8] {
        self.image.get(segment.file_range.clone()).unwrap_or_default()
    }

    /// First guest physical address after the kernel.
    #[must_use]
    pub fn memory_end(&self) -> u64 {
        self.segments
            .iter()
            .map(|part| part.physical.saturating_add(part.memory_byte_count))
            .max()
            .unwrap_or(0)
    }
}

/// Unpacks and edits a kernel file: a bzImage (`vmlinuz`) or a bare ELF `vmlinux`.
///
/// # Errors
/// A file that is no such kernel, is corrupt, or cannot be edited; the text says which and what to do.
pub fn prepare(kernel_file: &[u8]) -> Result<EditedKernel, KernelError> {
    if kernel_file.len() as u64 > KERNEL_FILE_BYTES_MAX {
        return Err(KernelError::FileTooLarge {
            byte_count: kernel_file.len(),
        });
    }
    let (mut image, header) = if bzimage::is_bzimage(kernel_file) {
        let parts = bzimage::parse(kernel_file)?;
        (payload::decompress(parts.payload)?, parts.header)
    } else if elf::is_elf(kernel_file) {
        (kernel_file.to_vec(), SetupHeader::for_bare_elf())
    } else {
        return Err(KernelError::NotLinux {
            found: describe(kernel_file).into(),
        });
    };
    let layout = elf::parse(&image)?;
    let release = release_of(&image).ok_or_else(|| KernelError::NotLinux {
        found: "an ELF file without the words \"Linux version\"".into(),
    })?;
    let (mut report, user_return_iretq) = rewrite::edit(&mut image, &layout.executable)?;
    report.release = release;
    Ok(EditedKernel {
        image,
        header,
        segments: layout.segments,
        entry: layout.entry,
        report,
        user_return_iretq,
    })
}

/// What a file that is no kernel looks like.
fn describe(file: &[u8]) -> &'static str {
    match file {
        [] => "empty",
        [0x1F, 0x8B, ..] => "a gzip file (an initrd, or a kernel for another machine?)",
        [b'0', b'7', b'0', b'7', b'0', ..] => "a cpio archive (an initrd?)",
        [0x28, 0xB5, 0x2F, 0xFD, ..] => "a zstd file (an initrd?)",
        [0xFD, b'7', b'z', b'X', b'Z', ..] => "an xz file (an initrd?)",
        _ if file.get(0x38..0x3C) == Some(b"ARM\x64") => "a kernel for arm64",
        [b'M', b'Z', ..] => "an EFI program without a bzImage header",
        _ => "neither a bzImage nor an ELF file",
    }
}

/// The release in the kernel's banner.
fn release_of(image: &[u8]) -> Option<String> {
    memchr::memmem::find_iter(image, BANNER).find_map(|start| {
        let rest = &image[start + BANNER.len()..];
        let rest = &rest[..rest.len().min(RELEASE_BYTES_MAX)];
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let release = std::str::from_utf8(&rest[..end]).ok()?;
        release
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| release.to_owned())
    })
}
