//! Bytes to numbers and back: little-endian base-128 varints and length-prefixed strings, bounded on the way in.

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// They end too early.
    #[error("the bytes end within an item")]
    Truncated,
    /// A number has more than 64 bits.
    #[error("a number is over-long")]
    OverlongNumber,
    /// A length is above its bound.
    #[error("a length of {length} is above the bound of {bound}")]
    TooLong {
        /// Claimed length.
        length: u64,
        /// Its bound.
        bound: usize,
    },
    /// No such kind.
    #[error("there is no item of kind {0}")]
    UnknownKind(u8),
    /// Something comes after the last item.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
}

/// Appends `value`.
pub(super) fn put_number(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = (value & 0x7F).to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Appends `content` and its length.
pub(super) fn put_bytes(bytes: &mut Vec<u8>, content: &[u8]) {
    put_number(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// Takes items off the front of `rest`.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        let (first, rest) = self.rest.split_first().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, CodecError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return Err(CodecError::OverlongNumber);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::OverlongNumber)
    }

    /// A length of at most `bound`.
    pub(super) fn length(&mut self, bound: usize) -> Result<usize, CodecError> {
        let length = self.number()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= bound)
            .ok_or(CodecError::TooLong { length, bound })
    }

    pub(super) fn bytes(&mut self, bound: usize) -> Result<&'a [u8], CodecError> {
        let length = self.length(bound)?;
        self.exactly(length)
    }

    pub(super) fn exactly(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn end(self) -> Result<(), CodecError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(CodecError::LeftOver(self.rest.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.number(), Ok(value));
            prop_assert_eq!(reader.end(), Ok(()));
            for end in 0..bytes.len() {
                prop_assert_eq!(Reader::new(&bytes[..end]).number(), Err(CodecError::Truncated));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert_eq!(Reader::new(&[0xFF; 10]).number(), Err(CodecError::OverlongNumber));
        assert_eq!(Reader::new(&[0x80; 11]).number(), Err(CodecError::OverlongNumber));
        let long = CodecError::TooLong { length: 5, bound: 4 };
        assert_eq!(Reader::new(&[5, 0, 0, 0, 0, 0]).bytes(4), Err(long));
        assert_eq!(Reader::new(&[5, 0]).bytes(5), Err(CodecError::Truncated));
    }
}
