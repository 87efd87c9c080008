//! A digest of RAM at the cost of what changed, from which the pages that differ can be told.
//!
//! Every page ever written has a digest `d`, a number below the prime `P`. The digest of RAM is, for each of a few buckets
//! of pages, two sums modulo `P`: of all `d`, and of all `d` times the page's number.
//!
//! ```text
//!   two machines, one page n of a bucket differs by Δ:   the sums differ by Δ and nΔ,   so  n = nΔ / Δ
//! ```
//!
//! So a page is named if it is the only one of its bucket that differs; if there are several, the quotient is, but for
//! chance, no page of that bucket, and the bucket is named (the decoding step of Eppstein and Goodrich, "Straggler
//! Identification in Round-Trip Data Streams", 2011).

use twox_hash::XxHash64;

use super::RunError;
use crate::base::guest_memory::GuestMemory;
use crate::base::units::{GuestPhys, PAGE_BYTES, PAGE_SIZE};
use crate::base::zeros::is_zero;

/// A Mersenne prime.
const P: u64 = (1 << 61) - 1;

/// Page `n` is in bucket `n` modulo this.
const BUCKETS: usize = 16;

/// A digest of RAM: for each bucket both sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RamSums([[u64; 2]; BUCKETS]);

fn plus(one: u64, other: u64) -> u64 {
    (one + other) % P
}

fn minus(one: u64, other: u64) -> u64 {
    plus(one, P - other % P)
}

fn times(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other) % u128::from(P);
    // A remainder of P is less than 64 bits long.
    u64::try_from(product).unwrap_or_default()
}

/// Fermat: what `one` must be multiplied by to become 1. Zero has no such number.
fn inverse(one: u64) -> u64 {
    let (mut power, mut base, mut exponent) = (1, one, P - 2);
    while exponent > 0 {
        if exponent & 1 == 1 {
            power = times(power, base);
        }
        base = times(base, base);
        exponent >>= 1;
    }
    power
}

impl RamSums {
    /// Length of the encoded form.
    pub const BYTES: usize = BUCKETS * 16;

    /// Takes in that the digest of `page` is no longer `old` but `new`.
    fn change(&mut self, page: u64, old: u64, new: u64) {
        let delta = minus(new, old);
        let [sum, weighted] = &mut self.0[bucket_of(page)];
        *sum = plus(*sum, delta);
        *weighted = plus(*weighted, times(page % P, delta));
    }

    /// What differs in `other`, in words; nothing if nothing does.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<String> {
        let words = self.places(other).map(|place| match place {
            Ok(page) => format!("the page at {:#x}", page * PAGE_BYTES),
            Err(bucket) => format!("several pages whose number is {bucket} modulo {BUCKETS}"),
        });
        words.collect()
    }

    /// The pages that differ in `other`, by address, as far as they can be told.
    #[must_use]
    pub fn differing_pages(&self, other: &Self) -> Vec<u64> {
        let pages = self.places(other).filter_map(Result::ok);
        pages.map(|page| page * PAGE_BYTES).collect()
    }

    /// The pages that differ in `other`, or the buckets in which several do.
    fn places(&self, other: &Self) -> impl Iterator<Item = Result<u64, usize>> {
        let buckets = self.0.iter().zip(&other.0).enumerate();
        let differing = buckets.filter(|(_, (one, other))| one != other);
        differing.map(|(bucket, (one, other))| {
            let [delta, weighted] = [0, 1].map(|index| minus(one[index], other[index]));
            let page = times(weighted, inverse(delta));
            // More RAM than the architecture's 52 bits of address cannot be.
            let is_one = delta != 0 && bucket_of(page) == bucket && page < 1 << 40;
            if is_one { Ok(page) } else { Err(bucket) }
        })
    }

    /// The encoded form.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        for (place, word) in bytes.chunks_exact_mut(8).zip(self.0.as_flattened()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// What was encoded. Any bytes are taken: sums that no machine has are only unequal to every machine's.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut sums = Self::default();
        for (word, bytes) in sums.0.as_flattened_mut().iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte))
                % P;
        }
        sums
    }
}

fn bucket_of(page: u64) -> usize {
    usize::try_from(page % BUCKETS as u64).unwrap_or_default()
}

/// The digest, kept up with a machine's RAM.
#[derive(Debug, Default)]
pub struct RamDigest {
    /// By page number; zero if it is zeros.
    pages: Vec<u64>,
    sums: RamSums,
}

impl RamDigest {
    /// Of all pages taken in.
    #[must_use]
    pub fn sums(&self) -> RamSums {
        self.sums
    }

    /// Takes in what the pages at `addresses` hold now.
    pub(super) fn update(&mut self, addresses: &[u64], memory: &GuestMemory) -> Result<(), RunError> {
        let mut content = [0; PAGE_SIZE];
        for address in addresses {
            let read = memory.read(GuestPhys(*address), &mut content);
            read.map_err(|outside| RunError::Host {
                what: "reading a page that the guest wrote",
                source: std::io::Error::other(outside),
            })?;
            self.set(*address, &content);
        }
        Ok(())
    }

    /// Takes in what the page at `address` holds. Whether that is or was anything but zeros.
    pub(super) fn set(&mut self, address: u64, content: &[u8; PAGE_SIZE]) -> bool {
        let page = address / PAGE_BYTES;
        let index = usize::try_from(page).unwrap_or(usize::MAX);
        if index >= self.pages.len() {
            self.pages.resize(index + 1, 0);
        }
        // Zeros count as what was never written: which pages a host tells of is its own affair, what they hold is not.
        let digest = if is_zero(content) {
            0
        } else {
            // Without vector instructions, which an emulated host executes slowly: 5 µs a page there, where XXH3 takes 13.
            XxHash64::oneshot(address, content) % P
        };
        let old = std::mem::replace(&mut self.pages[index], digest);
        self.sums.change(page, old, digest);
        old != 0 || digest != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_page_that_differs_alone_in_its_bucket_is_named(
            pages in proptest::collection::btree_map(0_u64..1 << 36, 0..P, 1..200),
            place in any::<prop::sample::Index>(),
            changed in 0..P,
        ) {
            let mut one = RamSums::default();
            pages.iter().for_each(|(page, digest)| one.change(*page, 0, *digest));
            prop_assert_eq!(one.difference(&one), Vec::<String>::new());
            let (page, digest) = pages.iter().nth(place.index(pages.len())).unwrap();
            let mut other = one;
            other.change(*page, *digest, changed);
            let expected = if changed == *digest {
                vec![]
            } else {
                vec![format!("the page at {:#x}", page * PAGE_BYTES)]
            };
            prop_assert_eq!(one.differing_pages(&other).len(), expected.len());
            prop_assert_eq!(one.difference(&other), expected);
            prop_assert_eq!(RamSums::from_bytes(&other.to_bytes()), other);
        }
    }

    #[test]
    fn several_pages_are_named_by_bucket_where_they_share_one() {
        let mut other = RamSums::default();
        other.change(3, 0, 77);
        other.change(20, 0, 78);
        other.change(36, 0, 79);
        let words = RamSums::default().difference(&other);
        assert_eq!(
            words,
            ["the page at 0x3000", "several pages whose number is 4 modulo 16"]
        );
    }
}
