//! What names an image's content, found with as little reading as can be.

use super::{Paths, kept_tree, key_of};
use crate::image::{Access, FileImage, Image, OpenError};
use crate::leaf_set::LeafSet;
use crate::replica::{FileStore, Loaded};
use crate::tree::{HashError, Threads, Tree, Wanted};
use crate::units::REGION_BYTES;

/// What a digest came to.
#[derive(Debug)]
pub(super) struct Digest {
    /// The tree. Leaves may not be known.
    pub(super) tree: Tree,
    /// Bytes of the image that were read for it, or passed over as holes; the rest was known from the last digest.
    pub(super) bytes_hashed: u64,
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The image cannot be opened.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// It cannot be read.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// What of an image is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// What changed since the last digest, where that is known.
    Changed,
    /// Everything: also what a bad disk may have changed by itself.
    Everything,
}

/// Digests any image, a replica's or not. What a replica comes to is kept for the next digest. `begins` is told
/// how many bytes there are to hash, then `progress` bytes as they are done; it answers whether to go on.
///
/// # Errors
/// [`DigestError`].
pub(super) fn digest(
    paths: &Paths,
    wanted: Wanted,
    reading: Reading,
    threads: Threads,
    begins: &mut dyn FnMut(u64),
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Digest, DigestError> {
    let image = FileImage::open(&paths.image, Access::Read)?;
    image.expect_sequential_reads();
    let length = image.length();
    // An image without metadata that can be read is no replica; a digest wants nothing of it but its bytes.
    let key = || {
        let store = FileStore::open(&paths.metadata, false).ok()?;
        key_of(&Loaded::read(&store).ok()?, &image)
    };
    let (path, before) = (kept_tree::path_of(paths), key());
    let kept = before
        .as_ref()
        .and_then(|key| kept_tree::read(&path, key, length));
    let kept = kept
        .filter(|(tree, _)| reading == Reading::Changed && (wanted == Wanted::Content || tree.has_plain()));
    let bytes_hashed = match &kept {
        Some((_, changed)) => (changed.regions() * REGION_BYTES).min(length.bytes()),
        None => length.bytes(),
    };
    begins(bytes_hashed);
    let tree = match kept {
        Some((tree, changed)) => tree.refresh(&image, &changed, threads, progress)?,
        None => Tree::build(&image, threads, wanted, progress)?,
    };
    if let Some(key) = key().filter(|key| bytes_hashed > 0 && before.as_ref() == Some(key)) {
        let nothing = LeafSet::none(length);
        kept_tree::told(&path, kept_tree::write(&path, &key, &tree, &nothing, &image));
    }
    Ok(Digest { tree, bytes_hashed })
}
