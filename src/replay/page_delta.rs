//! Pages in the log, each as its difference from what the log last said of it.
//!
//! A pre-empted guest's pages are all those that it has written since the epoch began (H1). Most have been told of
//! before, by an earlier pre-emption, and have changed in few bytes since, or in none. Both ends keep what was told, so
//! that only differences travel:
//!
//! ```text
//!   delta = page XOR the page as last told (zeros if never)      nothing at all where they are equal
//! ```
//!
//! Both ends forget at the same entry, when they keep [`TOLD_PAGES_MAX`] pages.

use std::collections::BTreeMap;

use crate::base::limits::TOLD_PAGES_MAX;
use crate::base::units::PAGE_SIZE;

type Page = Box<[u8; PAGE_SIZE]>;

/// What one end of a log knows of pages.
#[derive(Debug, Default)]
pub(super) struct ToldPages {
    pages: BTreeMap<u64, Page>,
}

/// A delta that is neither empty nor of a page's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a page's difference has {0} bytes")]
pub(super) struct BadDelta(usize);

impl ToldPages {
    /// Tells of the page at `address`, which holds `content`: what to write into the log.
    pub(super) fn tell(&mut self, address: u64, content: &[u8; PAGE_SIZE]) -> Vec<u8> {
        let told = self.told(address);
        if **told == *content {
            return Vec::new();
        }
        let delta = told.iter().zip(content).map(|(old, new)| old ^ new).collect();
        told.copy_from_slice(content);
        delta
    }

    /// Hears of the page at `address`: what it holds.
    ///
    /// # Errors
    /// When `delta` is none.
    pub(super) fn hear(&mut self, address: u64, delta: &[u8]) -> Result<Page, BadDelta> {
        if !delta.is_empty() && delta.len() != PAGE_SIZE {
            return Err(BadDelta(delta.len()));
        }
        let told = self.told(address);
        for (byte, change) in told.iter_mut().zip(delta) {
            *byte ^= change;
        }
        Ok(told.clone())
    }

    fn told(&mut self, address: u64) -> &mut Page {
        if self.pages.len() >= TOLD_PAGES_MAX && !self.pages.contains_key(&address) {
            self.pages.clear();
        }
        self.pages
            .entry(address)
            .or_insert_with(|| Box::new([0; PAGE_SIZE]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_told_is_heard(pages in prop::collection::vec((0..4_u64, 0..PAGE_SIZE, any::<u8>()), 0..40)) {
            let (mut teller, mut hearer) = (ToldPages::default(), ToldPages::default());
            for (address, place, byte) in pages {
                let mut content = [0; PAGE_SIZE];
                content[place] = byte;
                let delta = teller.tell(address, &content);
                prop_assert_eq!(*hearer.hear(address, &delta).unwrap(), content);
                prop_assert!(teller.tell(address, &content).is_empty());
            }
        }
    }

    #[test]
    fn both_ends_forget_at_the_same_page() {
        let (mut teller, mut hearer) = (ToldPages::default(), ToldPages::default());
        let content = [7; PAGE_SIZE];
        for address in (0..=TOLD_PAGES_MAX as u64).chain([0, 1]) {
            let delta = teller.tell(address, &content);
            assert_eq!(*hearer.hear(address, &delta).unwrap(), content);
        }
        assert!(teller.pages.len() <= TOLD_PAGES_MAX);
    }

    #[test]
    fn a_part_of_a_page_is_refused() {
        assert_eq!(ToldPages::default().hear(0, &[1, 2]), Err(BadDelta(2)));
    }
}
