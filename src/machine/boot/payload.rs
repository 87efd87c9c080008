//! Decompresses a bzImage's payload.
//!
//! The last four bytes of every payload are the length of the decompressed kernel (gzip's own trailer, appended by
//! the kernel's build for the others). It bounds the decompression and must be met exactly, so a payload that
//! inflates without end costs no more memory than it claimed, and it may claim no more than
//! [`KERNEL_IMAGE_BYTES_MAX`].

use std::io::Read;

use super::bytes::u32_at;
use super::error::KernelError;
use crate::base::limits::KERNEL_IMAGE_BYTES_MAX;

/// Bytes in one block of the lz4 legacy format.
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 << 20;
/// The lz4 legacy magic; it may stand again wherever a block's length could.
const LZ4_LEGACY_MAGIC: u32 = 0x184C_2102;
/// Most memory that liblzma may take: kernels are packed with a dictionary of at most 128 MiB.
const XZ_MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Largest zstd window: 128 MiB, the most that `zstd --ultra -22`, as the kernel's build runs it, produces.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Lz4Legacy,
    Xz,
    Zstd,
    Gzip,
}

impl Compression {
    const fn name(self) -> &'static str {
        match self {
            Self::Lz4Legacy => "lz4-legacy",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    fn of(payload: &[u8]) -> Result<Self, KernelError> {
        match payload {
            [0x02, 0x21, 0x4C, 0x18, ..] => Ok(Self::Lz4Legacy),
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Self::Xz),
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Ok(Self::Zstd),
            [0x1F, 0x8B, ..] => Ok(Self::Gzip),
            [b'B', b'Z', b'h', ..] => Err(KernelError::UnsupportedCompression { name: "bzip2" }),
            [0x5D, 0, 0, ..] => Err(KernelError::UnsupportedCompression { name: "lzma" }),
            [0x89, b'L', b'Z', b'O', ..] => Err(KernelError::UnsupportedCompression { name: "lzo" }),
            [0x04, 0x22, 0x4D, 0x18, ..] => Err(KernelError::UnsupportedCompression {
                name: "lz4 (frame format)",
            }),
            _ => Err(KernelError::UnknownCompression {
                magic: hexadecimal(payload.get(..6).unwrap_or(payload)),
            }),
        }
    }
}

/// Decompresses `payload`.
///
/// # Errors
/// Unknown or unsupported compression, corrupt data, or a length past the limit.
pub fn decompress(payload: &[u8]) -> Result<Vec<u8>, KernelError> {
    let compression = Compression::of(payload)?;
    let corrupt = |detail: String| KernelError::CorruptPayload {
        compression: compression.name(),
        detail,
    };
    let tail_offset = payload
        .len()
        .checked_sub(4)
        .ok_or_else(|| corrupt("it has no length at its end".into()))?;
    let claimed = u32_at(payload, tail_offset).unwrap_or(0);
    if u64::from(claimed) > KERNEL_IMAGE_BYTES_MAX {
        return Err(KernelError::PayloadTooLarge {
            byte_count: u64::from(claimed),
        });
    }
    let expected = usize::try_from(claimed).map_err(|error| corrupt(error.to_string()))?;
    let body = &payload[..tail_offset];
    let image = match compression {
        Compression::Lz4Legacy => lz4_legacy(body, expected),
        Compression::Xz => xz(body, expected),
        Compression::Zstd => zstd(body, expected),
        Compression::Gzip => drain(flate2::read::GzDecoder::new(payload), expected),
    }
    .map_err(corrupt)?;
    if image.len() != expected {
        return Err(corrupt(format!(
            "it ends after {} of {expected} bytes",
            image.len()
        )));
    }
    Ok(image)
}

fn xz(body: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let stream =
        liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_BYTES_MAX, 0).map_err(|e| e.to_string())?;
    drain(liblzma::bufread::XzDecoder::new_stream(body, stream), expected)
}

fn zstd(body: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(body)
        .map_err(|e| e.to_string())?
        .single_frame();
    decoder
        .window_log_max(ZSTD_WINDOW_LOG_MAX)
        .map_err(|e| e.to_string())?;
    drain(decoder, expected)
}

/// Reads all that `decoder` gives, at most one byte more than `expected`: enough to see that it is too long.
fn drain(decoder: impl Read, expected: usize) -> Result<Vec<u8>, String> {
    let mut image = Vec::with_capacity(expected);
    let limit = u64::try_from(expected).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(limit)
        .read_to_end(&mut image)
        .map_err(|error| error.to_string())?;
    if image.len() > expected {
        return Err(format!(
            "it is longer than the {expected} bytes that its end claims"
        ));
    }
    Ok(image)
}

/// The format of `lz4 -l`: a magic, then blocks of (length, data), each of which gives 8 MiB but the last.
fn lz4_legacy(body: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut image = vec![0; expected];
    let mut produced = 0;
    let mut offset = 4;
    while offset < body.len() {
        let length = u32_at(body, offset)
            .ok_or_else(|| format!("it is cut inside a block length at byte {offset}"))?;
        offset += 4;
        if length == LZ4_LEGACY_MAGIC {
            continue;
        }
        let block = usize::try_from(length)
            .ok()
            .and_then(|length| body.get(offset..offset.checked_add(length)?))
            .ok_or_else(|| format!("its block at byte {offset} of {length} bytes reaches past its end"))?;
        let room_end = expected.min(produced + LZ4_LEGACY_BLOCK_BYTES);
        produced += lz4_flex::block::decompress_into(block, &mut image[produced..room_end])
            .map_err(|error| format!("its block at byte {offset}: {error}"))?;
        offset += block.len();
    }
    image.truncate(produced);
    Ok(image)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::machine::boot::tiny::lz4_legacy_of;

    fn image() -> Vec<u8> {
        (0..200_000_u32).flat_map(|i| (i / 3).to_le_bytes()).collect()
    }

    fn with_length(mut packed: Vec<u8>, image: &[u8]) -> Vec<u8> {
        packed.extend(u32::try_from(image.len()).unwrap().to_le_bytes());
        packed
    }

    fn gzip_of(image: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(image).unwrap();
        encoder.finish().unwrap()
    }

    /// As the kernel's build does: the x86 branch filter, CRC32, no length of its own.
    fn xz_of(image: &[u8]) -> Vec<u8> {
        let mut filters = liblzma::stream::Filters::new();
        filters.x86();
        filters.lzma2(&liblzma::stream::LzmaOptions::new_preset(1).unwrap());
        let stream =
            liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(image).unwrap();
        encoder.finish().unwrap()
    }

    fn packed_in_every_way(image: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("lz4-legacy", lz4_legacy_of(image)),
            ("xz", with_length(xz_of(image), image)),
            ("zstd", with_length(zstd::encode_all(image, 1).unwrap(), image)),
            ("gzip", gzip_of(image)),
        ]
    }

    #[test]
    fn every_compression_round_trips() {
        let image = image();
        for (name, packed) in packed_in_every_way(&image) {
            assert!(decompress(&packed).unwrap() == image, "{name}");
        }
    }

    #[test]
    fn a_cut_payload_is_corrupt_by_name() {
        let image = image();
        for (name, packed) in packed_in_every_way(&image) {
            let mut cut = packed[..packed.len() / 2].to_vec();
            cut.extend(u32::try_from(image.len()).unwrap().to_le_bytes());
            let error = decompress(&cut).unwrap_err();
            assert!(
                matches!(&error, KernelError::CorruptPayload { compression, .. } if *compression == name)
            );
        }
    }

    #[test]
    fn a_payload_longer_than_it_claims_is_corrupt() {
        let image = image();
        for (name, packed) in packed_in_every_way(&image) {
            let mut lying = packed[..packed.len() - 4].to_vec();
            lying.extend(1000_u32.to_le_bytes());
            assert!(
                matches!(decompress(&lying), Err(KernelError::CorruptPayload { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_claim_past_the_limit_is_refused_before_any_work() {
        let mut packed = lz4_legacy_of(b"x");
        let tail = packed.len() - 4;
        packed[tail..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            decompress(&packed),
            Err(KernelError::PayloadTooLarge {
                byte_count: u64::from(u32::MAX)
            })
        );
    }

    #[test]
    fn foreign_compressions_are_named() {
        assert_eq!(
            decompress(b"BZh9...."),
            Err(KernelError::UnsupportedCompression { name: "bzip2" })
        );
        let error = decompress(&[0xDE, 0xAD, 0xBE, 0xEF, 1, 2, 3, 4]).unwrap_err();
        assert!(error.to_string().contains("de ad be ef 01 02"), "{error}");
        assert!(decompress(&[]).is_err());
    }
}
