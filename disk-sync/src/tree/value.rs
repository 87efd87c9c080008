//! Values of a tree's nodes, and how two become one.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::units::{LEAF_BYTES, REGION_LEAVES, in_memory};

/// Sets nodes of ours apart from plain BLAKE3's, which are computed from the same leaves.
const NODE_KEY: [u8; 32] = *b"antipode disk content tree, v1.\0";

/// The value of a node of the content tree: what its bytes are. Equal values mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub(crate) [u8; 32]);

impl Value {
    /// Of zeros, however many, wherever they lie.
    pub const ZERO: Self = Self([0; 32]);

    /// Whether all is zeros below this node.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// The value of a node from those of its halves.
    #[must_use]
    pub fn join(left: &Self, right: &Self) -> Self {
        if left.is_zero() && right.is_zero() {
            return Self::ZERO;
        }
        Self(merge_subtrees_non_root(
            &left.0,
            &right.0,
            Mode::KeyedHash(&NODE_KEY),
        ))
    }

    /// The value of the node over `values`, filled up with zeros to `width`, a power of two.
    #[must_use]
    pub fn over(values: &[Self], width: usize) -> Self {
        match values {
            [] => Self::ZERO,
            [value] if width == 1 => *value,
            _ => {
                let half = width / 2;
                let (left, right) = values.split_at(half.min(values.len()));
                Self::join(&Self::over(left, half), &Self::over(right, half))
            }
        }
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", ContentRoot(self.0))
    }
}

/// What names the content of a whole image, its length included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentRoot(pub(crate) [u8; 32]);

impl ContentRoot {
    /// Of an image of `bytes`, from the value of its highest node.
    #[must_use]
    pub(crate) fn of(bytes: u64, top: &Value) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&NODE_KEY);
        hasher.update(&bytes.to_le_bytes());
        hasher.update(&top.0);
        Self(hasher.finalize().into())
    }
}

impl std::fmt::Display for ContentRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes of a whole leaf of zeros.
pub(crate) static ZERO_LEAF: [u8; in_memory(LEAF_BYTES)] = [0; in_memory(LEAF_BYTES)];

/// Whether all bytes are zero. Stops at the first stretch that is not.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut stretches = bytes.chunks_exact(256);
    stretches.all(|stretch| stretch.iter().fold(0, |seen, byte| seen | byte) == 0)
        && stretches.remainder().iter().all(|&byte| byte == 0)
}

/// BLAKE3's value of one leaf at `offset`, as an inner node of the whole file's tree.
pub(crate) fn plain_leaf(offset: u64, bytes: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The value of one leaf at `offset`.
pub(crate) fn leaf_value(offset: u64, bytes: &[u8]) -> Value {
    if is_zero(bytes) {
        Value::ZERO
    } else {
        Value(plain_leaf(offset, bytes))
    }
}

/// BLAKE3's value of the node over `values`, of which all but the last stand for equally large powers of two.
pub(crate) fn plain_over(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [value] => *value,
        _ => {
            let (left, right) = values.split_at(plain_split(values.len()));
            merge_subtrees_non_root(&plain_over(left), &plain_over(right), Mode::Hash)
        }
    }
}

/// BLAKE3's root over at least two values, as [`plain_over`] takes them.
pub(crate) fn plain_root_over(values: &[ChainingValue]) -> blake3::Hash {
    let (left, right) = values.split_at(plain_split(values.len()));
    merge_subtrees_root(&plain_over(left), &plain_over(right), Mode::Hash)
}

/// BLAKE3 puts the largest power of two that leaves something over to the left.
fn plain_split(count: usize) -> usize {
    count.div_ceil(2).next_power_of_two()
}

/// The value of the node of a region over those of its leaves.
#[must_use]
pub(crate) fn region_value(leaves: &[Value]) -> Value {
    Value::over(leaves, REGION_LEAVES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_left_part_is_the_largest_power_of_two_below() {
        let split = |count| (count, plain_split(count));
        assert_eq!(
            [2, 3, 4, 5, 8, 9, 16, 17].map(split),
            [(2, 1), (3, 2), (4, 2), (5, 4), (8, 4), (9, 8), (16, 8), (17, 16)]
        );
    }

    #[test]
    fn zeros_are_seen_through_to_the_last_byte() {
        for length in [0, 1, 255, 256, 257, 65_536] {
            assert!(is_zero(&vec![0; length]));
        }
        for at in [0, 255, 256, 1000, 1023, 1024] {
            let mut bytes = vec![0; 1025];
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
        }
    }

    #[test]
    fn what_is_filled_up_with_zeros_has_the_same_value() {
        let value = |byte| Value([byte; 32]);
        let three = [value(1), value(2), value(3)];
        let four = [value(1), value(2), value(3), Value::ZERO];
        assert_eq!(Value::over(&three, 16), Value::over(&four, 16));
        assert_ne!(Value::over(&three, 16), Value::over(&three, 8));
        assert_eq!(Value::over(&[Value::ZERO; 5], 8), Value::ZERO);
        assert_eq!(Value::over(&three[..1], 1), three[0]);
    }
}
