//! What is told of an image at the far end, or compared with one, whether they are replicas or not. Nothing is changed.

use super::{Digest, DigestError, Lent, Paths, Reading, digest};
use crate::image::{FileImage, Image};
use crate::leaf_set::LeafSet;
use crate::protocol::{
    Clock, Comparison, DigestRequest, Digested, Link, Options, Report, Role, RunError, Side, Status, compare,
    run, tell_digest,
};
use crate::tree::{Threads, Wanted};

/// What an image brings into a comparison.
fn side<'a>(image: &'a FileImage, role: Role, lent: &'a mut Lent) -> Side<'a> {
    image.expect_sequential_reads();
    Side {
        role,
        image,
        ledger: lent,
        summary: None,
        marks: LeafSet::none(image.length()),
    }
}

/// Compares `image` with the one at the other end of `link`.
///
/// # Errors
/// [`RunError`].
pub fn compare_with(
    image: &FileImage,
    link: Link,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<Comparison, RunError> {
    let mut lent = Lent::default();
    compare(side(image, Role::Source, &mut lent), link, options, clock, watch)
}

/// Is the other end of [`compare_with`].
///
/// # Errors
/// [`RunError`].
pub fn be_compared(
    image: &FileImage,
    link: Link,
    options: &Options,
    clock: &dyn Clock,
) -> Result<Report, RunError> {
    let mut lent = Lent::default();
    run(
        side(image, Role::Target, &mut lent),
        link,
        options,
        clock,
        &mut |_| (),
    )
}

/// Compares two images of this host.
///
/// # Errors
/// The error of the end that failed first.
pub fn compare_here(
    one: &FileImage,
    other: &FileImage,
    options: &Options,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(&Status),
) -> Result<Comparison, RunError> {
    super::both_here(
        |link| compare_with(one, link, options, clock, watch),
        |link| be_compared(other, link, options, clock),
    )
}

/// What names the content of the image, a replica's or not. `begins` is told how many bytes there are to hash, then
/// `progress` bytes as they are done; it answers whether to go on.
///
/// # Errors
/// [`DigestError`].
pub fn digested(
    paths: &Paths,
    request: DigestRequest,
    threads: Threads,
    begins: &mut dyn FnMut(u64),
    progress: &(dyn Fn(u64) -> bool + Sync),
) -> Result<Digested, DigestError> {
    let wanted = if request.content_only {
        Wanted::Content
    } else {
        Wanted::Both
    };
    let reading = if request.everything {
        Reading::Everything
    } else {
        Reading::Changed
    };
    let Digest { tree, bytes_hashed } = digest(paths, wanted, reading, threads, begins, progress)?;
    let plain = tree.plain_root().filter(|_| !request.content_only);
    Ok(Digested {
        bytes: tree.length().bytes(),
        bytes_hashed,
        content: tree.content_root(),
        plain: plain.map(Into::into),
    })
}

/// Tells the peer what names the content of the image.
///
/// # Errors
/// [`RunError`]; the peer is told why.
pub fn digest_for(
    paths: &Paths,
    request: DigestRequest,
    link: Link,
    threads: Threads,
    clock: &dyn Clock,
) -> Result<Digested, RunError> {
    tell_digest(link, clock, |teller| {
        let mut begins = |bytes| teller.begins(bytes);
        let progress = |bytes| teller.advance(bytes);
        digested(paths, request, threads, &mut begins, &progress).map_err(|error| match error {
            DigestError::Image(error) => RunError::Host(std::io::Error::other(error)),
            DigestError::Hash(error) => RunError::Hash(error),
        })
    })
}
