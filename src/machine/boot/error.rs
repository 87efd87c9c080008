//! Why a kernel, a command line or a placement is refused. Every text says what is wrong, where, and what to do;
//! all of them are the operator's to mend (configuration), none is a fault of the guest or of a peer.

use crate::base::limits::{CMDLINE_BYTES_MAX, KERNEL_FILE_BYTES_MAX, KERNEL_IMAGE_BYTES_MAX};

/// What to use instead, said in every refusal that no setting can mend.
const USE_DEBIAN: &str = "use the vmlinuz of a Debian linux-image package";

/// A kernel file that cannot be used. Nothing has been started or written when this is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// Longer than any kernel.
    #[error(
        "the kernel file has {byte_count} bytes, more than the {KERNEL_FILE_BYTES_MAX} allowed; {USE_DEBIAN}"
    )]
    FileTooLarge {
        /// Its length.
        byte_count: usize,
    },
    /// Neither an x86 bzImage nor an ELF file.
    #[error("the kernel file is no Linux kernel for x86: it is {found}; {USE_DEBIAN}")]
    NotLinux {
        /// What it looks like.
        found: String,
    },
    /// A field points past the end of the file.
    #[error(
        "the kernel file is cut short: {what} ends at byte {end} but the file has {byte_count}; copy it again or \
         reinstall its package"
    )]
    Truncated {
        /// Which part is missing.
        what: &'static str,
        /// Where that part should end.
        end: u64,
        /// How long the file is.
        byte_count: usize,
    },
    /// A boot protocol from before 64-bit entry was described in the header.
    #[error("the kernel speaks boot protocol {major}.{minor:02}, 2.12 or later is needed; {USE_DEBIAN}")]
    OldProtocol {
        /// Major version.
        major: u8,
        /// Minor version.
        minor: u8,
    },
    /// A kernel for 32-bit machines.
    #[error("the kernel is built for 32-bit x86 ({where_seen}); use the amd64 kernel package")]
    ThirtyTwoBit {
        /// Which field says so.
        where_seen: &'static str,
    },
    /// A payload whose first bytes name no compression we know.
    #[error(
        "the kernel's payload begins with {magic}, which is no compression known here (lz4-legacy, xz, zstd, gzip); \
         {USE_DEBIAN}"
    )]
    UnknownCompression {
        /// The first bytes, in hexadecimal.
        magic: String,
    },
    /// A compression that is recognised but not supported.
    #[error(
        "the kernel's payload is compressed with {name}, which is not supported (lz4-legacy, xz, zstd, gzip are); {USE_DEBIAN}"
    )]
    UnsupportedCompression {
        /// Its name.
        name: &'static str,
    },
    /// A payload that does not decompress.
    #[error(
        "the kernel's {compression} payload is corrupt: {detail}; copy the file again or reinstall its package"
    )]
    CorruptPayload {
        /// The compression.
        compression: &'static str,
        /// What the decompressor found.
        detail: String,
    },
    /// A payload that inflates past the limit.
    #[error(
        "the kernel's payload claims {byte_count} bytes, more than the {KERNEL_IMAGE_BYTES_MAX} allowed; {USE_DEBIAN}"
    )]
    PayloadTooLarge {
        /// The length it claims.
        byte_count: u64,
    },
    /// An ELF file that is no loadable x86-64 kernel.
    #[error("the kernel's ELF image is unusable: {what}; {USE_DEBIAN}")]
    UnusableElf {
        /// What is wrong, with names and numbers.
        what: String,
    },
    /// A kernel that could be loaded but not made deterministic (E2).
    #[error("the kernel cannot be edited for deterministic execution: {what}; {USE_DEBIAN}")]
    CannotEdit {
        /// What was found, with addresses.
        what: String,
    },
}

/// A command line that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A word of the operator's that the machine must decide itself.
    #[error("the kernel command line says {word:?}, but {why}; remove {word:?} from it")]
    Contradiction {
        /// The operator's word.
        word: String,
        /// What the machine needs, and why.
        why: String,
    },
    /// A byte that has no place on a command line.
    #[error("the kernel command line holds the character {character:?} at byte {offset}; remove it")]
    BadCharacter {
        /// The character.
        character: char,
        /// Where.
        offset: usize,
    },
    /// A quotation that never ends and would swallow the settings that follow.
    #[error(
        "the kernel command line opens a quotation at byte {offset} and never closes it; add the closing quote"
    )]
    OpenQuote {
        /// Where it opens.
        offset: usize,
    },
    /// Longer than the kernel reads.
    #[error(
        "the kernel command line would have {byte_count} bytes, {CMDLINE_BYTES_MAX} are allowed; the machine's own \
         settings take {required_byte_count} of them, so shorten yours by {} bytes",
        byte_count - CMDLINE_BYTES_MAX
    )]
    TooLong {
        /// Length with the machine's settings.
        byte_count: usize,
        /// Length of the machine's settings.
        required_byte_count: usize,
    },
}

/// A kernel, initrd or table that does not fit into this VM's RAM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    /// The kernel ends past RAM.
    #[error(
        "the kernel needs RAM up to {end:#x} but RAM ends at {ram_end:#x}; give the VM at least {} MiB",
        mebibytes_up(*end)
    )]
    KernelBeyondRam {
        /// First byte after the kernel.
        end: u64,
        /// End of RAM below 4 GiB.
        ram_end: u64,
    },
    /// The initrd has no place between the kernel and the end of the RAM it may lie in.
    #[error(
        "the initrd has {initrd_byte_count} bytes but only {room_byte_count} are free between the kernel's end \
         {kernel_end:#x} and {limit:#x}; give the VM more RAM (at least {} MiB) or use a smaller initrd",
        mebibytes_up(kernel_end.saturating_add(*initrd_byte_count))
    )]
    InitrdTooLarge {
        /// Length of the initrd.
        initrd_byte_count: u64,
        /// Room there is.
        room_byte_count: u64,
        /// First byte after the kernel.
        kernel_end: u64,
        /// First byte past the initrd's last possible place.
        limit: u64,
    },
    /// The kernel reads a shorter command line than ours.
    #[error(
        "the kernel reads {limit} bytes of command line but it has {byte_count}; shorten it or use a newer kernel"
    )]
    CmdlineTooLong {
        /// Length of the command line.
        byte_count: usize,
        /// What the kernel says it reads.
        limit: u32,
    },
    /// Something lies outside RAM that the checks above should have caught: the VM has less than the least RAM.
    #[error("{what} does not fit into the VM's RAM ({outside}); give the VM at least 64 MiB")]
    OutsideRam {
        /// What was being placed.
        what: &'static str,
        /// Where.
        outside: crate::base::guest_memory::OutsideRam,
    },
}

fn mebibytes_up(byte_count: u64) -> u64 {
    byte_count.div_ceil(crate::base::units::MEBIBYTE)
}
