//! The setup header of a bzImage (Documentation/x86/boot.rst of Linux 6.1, "The Real-Mode Kernel Header").
//!
//! ```text
//!   file      0x1F1          0x202       (setup_sects + 1) × 512        + payload_offset      + payload_length
//!   |boot     |setup header  |"HdrS" …   |decompressor and payload      |compressed vmlinux   |decompressor's data
//! ```
//!
//! The decompressor in the middle never runs: the payload is decompressed here, edited, and entered directly.

use super::bytes::{slice_at, u8_at, u16_at, u32_at};
use super::error::KernelError;

/// First byte of the setup header, in the file and in `boot_params` alike.
pub(super) const SETUP_HEADER_OFFSET: usize = 0x1F1;
/// First byte of `boot_params` past the room for a setup header (`edd_mbr_sig_buffer`).
const SETUP_HEADER_END_MAX: usize = 0x290;
/// Where the magic `HdrS` stands; the header's length byte counts from here.
const MAGIC_OFFSET: usize = 0x202;
/// The first protocol version that says whether the kernel has a 64-bit entry.
const VERSION_MIN: u16 = 0x020C;
/// `xloadflags`: the kernel is a 64-bit one.
const XLF_KERNEL_64: u16 = 1;
/// Setup sectors if the header says 0.
const SETUP_SECTORS_DEFAULT: u64 = 4;
/// Bytes in one setup sector.
const SETUP_SECTOR_BYTES: u64 = 512;
/// `initrd_addr_max` of every x86 kernel since 2.03 that says nothing else.
const INITRD_ADDRESS_MAX_DEFAULT: u32 = 0x7FFF_FFFF;

/// What the setup header tells a loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupHeader {
    /// The header's bytes from 0x1F1 on, to be copied into `boot_params`.
    pub bytes: Vec<u8>,
    /// Highest address that a byte of the initrd may have.
    pub initrd_address_max: u32,
    /// Longest command line the kernel reads, without the terminating zero.
    pub cmdline_byte_count_max: u32,
}

impl SetupHeader {
    /// The header for a bare `vmlinux`, which carries none: what the decompressed kernel reads of it.
    #[must_use]
    pub fn for_bare_elf() -> Self {
        let mut image = [0_u8; 0x26C];
        image[0x1FE..0x200].copy_from_slice(&0xAA55_u16.to_le_bytes());
        image[0x201] = 0x6A;
        image[MAGIC_OFFSET..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020F_u16.to_le_bytes());
        image[0x211] = 1;
        image[0x22C..0x230].copy_from_slice(&INITRD_ADDRESS_MAX_DEFAULT.to_le_bytes());
        image[0x236..0x238].copy_from_slice(&XLF_KERNEL_64.to_le_bytes());
        image[0x238..0x23C].copy_from_slice(&2047_u32.to_le_bytes());
        Self {
            bytes: image[SETUP_HEADER_OFFSET..].to_vec(),
            initrd_address_max: INITRD_ADDRESS_MAX_DEFAULT,
            cmdline_byte_count_max: 2047,
        }
    }
}

/// A bzImage taken apart, nothing decompressed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// Its setup header.
    pub header: SetupHeader,
    /// The compressed kernel, with the four bytes at its end that hold its decompressed length.
    pub payload: &'a [u8],
}

/// Whether `file` carries a bzImage's magic; says nothing about the rest.
#[must_use]
pub fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, 0x1FE) == Some(0xAA55) && file.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) == Some(b"HdrS")
}

/// Takes a bzImage apart.
///
/// # Errors
/// No bzImage, a protocol older than 2.12, a 32-bit kernel, or a field that points past the file's end.
pub fn parse(file: &[u8]) -> Result<BzImage<'_>, KernelError> {
    if !is_bzimage(file) {
        return Err(KernelError::NotLinux {
            found: "without a bzImage header".into(),
        });
    }
    let cut = |what, end| KernelError::Truncated {
        what,
        end,
        byte_count: file.len(),
    };
    let header_cut = || cut("the setup header", 0x268);

    let version = u16_at(file, 0x206).ok_or_else(header_cut)?;
    if version < VERSION_MIN {
        let [minor, major] = version.to_le_bytes();
        return Err(KernelError::OldProtocol { major, minor });
    }
    let header_end = MAGIC_OFFSET + usize::from(u8_at(file, 0x201).ok_or_else(header_cut)?);
    let header_end = header_end.min(SETUP_HEADER_END_MAX);
    // The last field read below ends at 0x250; a header that claims to end earlier is not of this version.
    if header_end < 0x250 {
        return Err(cut("the setup header", 0x250));
    }
    let bytes = file.get(SETUP_HEADER_OFFSET..header_end).ok_or_else(header_cut)?;
    if u16_at(file, 0x236).ok_or_else(header_cut)? & XLF_KERNEL_64 == 0 {
        return Err(KernelError::ThirtyTwoBit {
            where_seen: "xloadflags of its setup header",
        });
    }

    let sectors = match u8_at(file, SETUP_HEADER_OFFSET).ok_or_else(header_cut)? {
        0 => SETUP_SECTORS_DEFAULT,
        sectors => u64::from(sectors),
    };
    let payload_offset =
        (sectors + 1) * SETUP_SECTOR_BYTES + u64::from(u32_at(file, 0x248).ok_or_else(header_cut)?);
    let payload_byte_count = u64::from(u32_at(file, 0x24C).ok_or_else(header_cut)?);
    let payload = slice_at(file, payload_offset, payload_byte_count)
        .ok_or_else(|| cut("the compressed kernel", payload_offset + payload_byte_count))?;
    Ok(BzImage {
        header: SetupHeader {
            bytes: bytes.to_vec(),
            initrd_address_max: u32_at(file, 0x22C).ok_or_else(header_cut)?,
            cmdline_byte_count_max: u32_at(file, 0x238).ok_or_else(header_cut)?,
        },
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::boot::tiny::bzimage_around;

    #[test]
    fn the_payload_and_the_limits_are_found() {
        let file = bzimage_around(b"payload");
        let image = parse(&file).unwrap();
        assert_eq!(image.payload, b"payload");
        assert_eq!(image.header.initrd_address_max, 0x7FFF_FFFF);
        assert_eq!(image.header.cmdline_byte_count_max, 2047);
        assert_eq!(image.header.bytes.len(), 0x202 + 0x6A - 0x1F1);
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = bzimage_around(b"payload");
        for end in 0..file.len() {
            assert!(parse(&file[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn old_and_32_bit_kernels_are_refused_by_name() {
        let mut old = bzimage_around(b"payload");
        old[0x206] = 0x0B;
        assert_eq!(parse(&old), Err(KernelError::OldProtocol { major: 2, minor: 11 }));
        let mut narrow = bzimage_around(b"payload");
        narrow[0x236] = 0;
        assert!(matches!(parse(&narrow), Err(KernelError::ThirtyTwoBit { .. })));
    }

    #[test]
    fn a_payload_past_the_end_is_named() {
        let mut file = bzimage_around(b"payload");
        file[0x24F] = 0x7F;
        let error = parse(&file).unwrap_err();
        assert!(
            error.to_string().contains("the compressed kernel ends at byte"),
            "{error}"
        );
    }
}
