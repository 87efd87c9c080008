//! QEMU's `-netdev stream` framing: a 4-byte big-endian length, then that many bytes of Ethernet frame.

use super::fabric::Frame;

/// QEMU's own bound on a packet (`NET_BUFSIZE`: 64 KiB of payload plus 4 KiB of headers).
pub const FRAME_BYTES_MAX: usize = 68 * 1024;

const PREFIX_BYTES: usize = 4;

/// The peer does not speak this framing; its connection must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a frame announces {0} bytes, above the bound of {FRAME_BYTES_MAX}: the peer does not speak QEMU's stream framing"
)]
pub struct TooLong(pub usize);

/// Collects bytes as they come and gives out whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
}

impl Decoder {
    /// Adds received bytes. Call [`Decoder::next`] until it gives nothing before adding more.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`TooLong`] if the length prefix exceeds [`FRAME_BYTES_MAX`].
    #[expect(
        clippy::should_implement_trait,
        reason = "fallible: an Iterator of Results would hide the end"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, TooLong> {
        let rest = &self.buffer[self.consumed..];
        let Some((prefix, body)) = rest.split_first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(TooLong(length));
        }
        let Some(frame) = body.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::from(frame);
        self.consumed += PREFIX_BYTES + length;
        Ok(Some(frame))
    }
}

/// Appends a frame with its prefix.
///
/// # Panics
/// If the frame exceeds [`FRAME_BYTES_MAX`]; the decoder never gives such a frame.
pub fn encode(frame: &[u8], into: &mut Vec<u8>) {
    assert!(
        frame.len() <= FRAME_BYTES_MAX,
        "a frame of {} bytes never entered the switch",
        frame.len()
    );
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(frame);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_over_long_length_is_refused() {
        let mut decoder = Decoder::default();
        decoder.extend(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
        assert_eq!(decoder.next(), Err(TooLong(FRAME_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            piece in 1..50_usize,
        ) {
            let mut stream = Vec::new();
            frames.iter().for_each(|frame| encode(frame, &mut stream));
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                decoder.extend(bytes);
                while let Some(frame) = decoder.next().unwrap() {
                    seen.push(frame.to_vec());
                }
            }
            prop_assert_eq!(seen, frames);
        }
    }
}
