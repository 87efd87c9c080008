//! Buffers for bulk data that are used again: the allocator gives a large one back to the host when it is freed, and
//! the next one then costs a page fault for each of its pages.
//!
//! A buffer handed out holds whatever was in it before; whoever takes it fills it.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::limits::{POOLED_BUFFERS_MAX, POOLED_BYTES_MAX};

#[derive(Debug, Default)]
struct Shelf {
    /// Oldest first.
    buffers: VecDeque<Vec<u8>>,
    byte_count: usize,
}

impl Shelf {
    /// The smallest buffer of at least `byte_count` bytes.
    fn take(&mut self, byte_count: usize) -> Option<Vec<u8>> {
        let large_enough = self.buffers.iter().enumerate();
        let (place, _) = large_enough
            .filter(|(_, buffer)| buffer.len() >= byte_count)
            .min_by_key(|(_, buffer)| buffer.len())?;
        let buffer = self.buffers.remove(place)?;
        self.byte_count -= buffer.len();
        Some(buffer)
    }

    fn put(&mut self, buffer: Vec<u8>) {
        self.byte_count += buffer.len();
        self.buffers.push_back(buffer);
        while self.byte_count > POOLED_BYTES_MAX || self.buffers.len() > POOLED_BUFFERS_MAX {
            let Some(oldest) = self.buffers.pop_front() else {
                return;
            };
            self.byte_count -= oldest.len();
        }
    }
}

/// Keeps a bounded number of buffers for their next use. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct BufferPool(Arc<Mutex<Shelf>>);

impl BufferPool {
    /// A buffer of `byte_count` unspecified bytes, which comes back here when it is dropped.
    #[must_use]
    pub fn take(&self, byte_count: usize) -> Buffer {
        let kept = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(byte_count);
        Buffer {
            bytes: kept.unwrap_or_else(|| vec![0; byte_count]),
            byte_count,
            home: Some(self.clone()),
        }
    }
}

/// Bytes, often of a [`BufferPool`].
#[derive(Debug)]
pub struct Buffer {
    /// May be longer than what was asked for.
    bytes: Vec<u8>,
    byte_count: usize,
    home: Option<BufferPool>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(BufferPool(shelf)) = self.home.take() {
            let bytes = std::mem::take(&mut self.bytes);
            shelf.lock().unwrap_or_else(PoisonError::into_inner).put(bytes);
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.byte_count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.byte_count]
    }
}

/// A buffer of no pool.
impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            byte_count: bytes.len(),
            bytes,
            home: None,
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        self.to_vec().into()
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Buffer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_at_any_length_it_holds() {
        let pool = BufferPool::default();
        let first = pool.take(4096);
        let address = first.as_ptr();
        drop(first);
        let second = pool.take(100);
        assert_eq!((second.as_ptr(), second.len()), (address, 100));
        assert_ne!(pool.take(100).as_ptr(), address, "it is in use");
        drop(second);
        assert_ne!(pool.take(4097).as_ptr(), address, "it is too short");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = BufferPool::default();
        let many: Vec<_> = (0..2 * POOLED_BUFFERS_MAX).map(|_| pool.take(512)).collect();
        drop(many);
        drop(pool.take(POOLED_BYTES_MAX + 1));
        let large: Vec<_> = (0..3).map(|_| pool.take(POOLED_BYTES_MAX / 2)).collect();
        drop(large);
        let shelf = pool.0.lock().unwrap();
        assert_eq!((shelf.buffers.len(), shelf.byte_count), (2, POOLED_BYTES_MAX));
    }

    #[test]
    fn buffers_are_equal_by_their_bytes() {
        let mut buffer = BufferPool::default().take(2);
        buffer.copy_from_slice(&[1, 2]);
        assert_eq!(buffer, Buffer::from(vec![1, 2]));
        assert_eq!(buffer.clone(), buffer);
    }
}
