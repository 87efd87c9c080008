//! Before a session: what a peer wants that has connected. And a digest of an image at the far end, which takes no session.
//!
//! ```text
//!   near                                         far
//!     ───── Hello with a summary ────────────────▶   a session between two replicas
//!     ───── Hello without one ───────────────────▶   a session that compares any two images
//!     ───── Digest ──────────────────────────────▶   hashes its image
//!     ◀──── Hashing, now and then ────────────────
//!     ◀──── Digested ─────────────────────────────
//! ```

use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use super::engine::{Line, RunError, heard};
use super::frame::{DigestRequest, Digested, Frame};
use super::link::{Link, SILENCE_MAX};
use super::pace::{Clock, Pacer};
use super::session::{Event, SessionError};
use super::wire::{NoFrame, read_frame, write_frame};
use crate::units::MEBIBYTE;

/// Bytes of hashing after which the other end is told at the latest.
const TOLD_EVERY_BYTES: u64 = 256 * MEBIBYTE;

/// What a peer wants that has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A session between replicas.
    Sync,
    /// A session in which any two images are compared.
    Compare,
    /// What names the content of the image here.
    Digest(DigestRequest),
}

/// Waits for what the peer wants. The session that it wants hears its first words again.
///
/// # Errors
/// [`RunError`]; the peer is told why.
pub fn hear(mut link: Link) -> Result<(Wish, Link), RunError> {
    match first_words(&mut link) {
        Ok(wish) => Ok((wish, link)),
        Err(error) => {
            refuse(link, &error.to_string());
            Err(error)
        }
    }
}

fn first_words(link: &mut Link) -> Result<Wish, RunError> {
    link.limit_silence(SILENCE_MAX).map_err(RunError::Link)?;
    let (frame, body) = read_frame(&mut link.reader).map_err(|none| match none {
        NoFrame::Link(error) => RunError::Link(error),
        NoFrame::Breach(what) => SessionError::Breach(what).into(),
    })?;
    let wish = match frame {
        Frame::Hello(hello) if hello.summary.is_some() => Wish::Sync,
        Frame::Hello(_) => Wish::Compare,
        Frame::Digest(request) => return Ok(Wish::Digest(request)),
        Frame::Abort(reason) => return Err(SessionError::Aborted(reason).into()),
        frame => return Err(SessionError::Misplaced(frame.name()).into()),
    };
    let mut words = Vec::new();
    write_frame(&mut words, &body).map_err(RunError::Link)?;
    let rest = std::mem::replace(&mut link.reader, Box::new(io::empty()));
    link.reader = Box::new(Cursor::new(words).chain(rest));
    Ok(wish)
}

/// Tells a peer why it cannot have what it wants, if it still listens.
pub fn refuse(mut link: Link, reason: &str) {
    let said = write_frame(&mut link.writer, &Frame::Abort(reason.to_owned()).encode());
    // It is refused all the same.
    let _ = said.and_then(|()| link.writer.finish());
}

/// Asks for the digest of the image at the other end. `watch` is told how many bytes are hashed there, and of how many.
///
/// # Errors
/// [`RunError`].
pub fn ask_digest(
    link: Link,
    request: DigestRequest,
    clock: &dyn Clock,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<Digested, RunError> {
    let line = Line::default();
    let outcome = line.carry(link, false, Pacer::new(None), clock, |_| {
        line.say(&Frame::Digest(request))?;
        loop {
            match heard(line.take())? {
                Event::Peer(Frame::Hashing { done, of }) => watch(done, of),
                Event::Peer(Frame::Digested(digested)) => {
                    return if digested.plain.is_some() == request.content_only {
                        Err(SessionError::Breach("a digest of another kind").into())
                    } else {
                        Ok(digested)
                    };
                }
                Event::Peer(Frame::Abort(reason)) => return Err(SessionError::Aborted(reason).into()),
                Event::Peer(frame) => return Err(SessionError::Misplaced(frame.name()).into()),
                _ => {}
            }
        }
    });
    outcome.map(|(digested, _)| digested)
}

/// Where hashing for a peer tells how far it is.
#[derive(Debug)]
pub struct Teller<'a> {
    line: &'a Line,
    of: AtomicU64,
    done: AtomicU64,
}

impl Teller<'_> {
    /// So many bytes are to be hashed.
    pub fn begins(&self, bytes: u64) {
        self.of.store(bytes, Ordering::Relaxed);
    }

    /// So many bytes more are hashed. Answers whether the peer still waits for it.
    pub fn advance(&self, bytes: u64) -> bool {
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let (done, of) = (before + bytes, self.of.load(Ordering::Relaxed));
        let step = (of / 100).clamp(1, TOLD_EVERY_BYTES);
        before / step == done / step || self.line.say(&Frame::Hashing { done, of }).is_ok()
    }
}

/// Tells a peer the digest that it wants, which `work` finds.
///
/// # Errors
/// [`RunError`]; the peer is told why.
pub fn tell_digest(
    link: Link,
    clock: &dyn Clock,
    work: impl FnOnce(&Teller<'_>) -> Result<Digested, RunError>,
) -> Result<Digested, RunError> {
    let line = Line::default();
    let (digested, sent) = line.carry(link, true, Pacer::new(None), clock, |_| {
        let (of, done) = (AtomicU64::new(0), AtomicU64::new(0));
        let digested = work(&Teller {
            line: &line,
            of,
            done,
        })?;
        line.say(&Frame::Digested(digested))?;
        Ok(digested)
    })?;
    sent.map(|()| digested).map_err(RunError::Link)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::limits::FRAME_BYTES_MAX;
    use crate::tree::ContentRoot;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn request(content_only: bool) -> DigestRequest {
        DigestRequest {
            content_only,
            everything: false,
        }
    }

    fn digested(plain: Option<[u8; 32]>) -> Digested {
        Digested {
            bytes: 200 * MEBIBYTE,
            bytes_hashed: 100 * MEBIBYTE,
            content: ContentRoot([7; 32]),
            plain,
        }
    }

    /// Tells whoever asks that this is the digest, region by region.
    fn answer(link: Link, found: Digested) -> Result<Digested, RunError> {
        let (wish, link) = hear(link)?;
        assert!(matches!(wish, Wish::Digest(_)), "{wish:?}");
        tell_digest(link, &Still, |teller| {
            teller.begins(found.bytes_hashed);
            assert!((0..100).all(|_| teller.advance(MEBIBYTE)));
            Ok(found)
        })
    }

    fn asked(request: DigestRequest, found: Digested) -> (Result<Digested, RunError>, Vec<(u64, u64)>) {
        let (near, far) = Link::pair().unwrap();
        let seen = Mutex::new(Vec::new());
        let outcome = std::thread::scope(|scope| {
            let far = scope.spawn(|| answer(far, found));
            let outcome = ask_digest(near, request, &Still, &mut |done, of| {
                seen.lock().unwrap().push((done, of));
            });
            assert_eq!(far.join().unwrap().is_ok(), outcome.is_ok());
            outcome
        });
        (outcome, seen.into_inner().unwrap())
    }

    #[test]
    fn a_digest_is_told_and_how_far_it_is() {
        for plain in [None, Some([1; 32])] {
            let (outcome, seen) = asked(request(plain.is_none()), digested(plain));
            assert_eq!(outcome.unwrap(), digested(plain));
            assert_eq!(seen.len(), 100);
            assert_eq!(seen[49], (50 * MEBIBYTE, 100 * MEBIBYTE));
        }
    }

    #[test]
    fn a_digest_of_another_kind_than_was_asked_for_is_refused() {
        let (near, far) = Link::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(answer(far, digested(None))));
            let refused = ask_digest(near, request(false), &Still, &mut |_, _| ()).unwrap_err();
            assert!(
                matches!(refused, RunError::Session(SessionError::Breach(_))),
                "{refused}"
            );
        });
    }

    #[test]
    fn a_peer_that_hangs_up_ends_the_hashing() {
        let (near, far) = UnixStream::pair().unwrap();
        let frame = Frame::Digest(request(true)).encode();
        write_frame(&mut &near, &frame).unwrap();
        let (_, far) = hear(Link::local(far).unwrap()).unwrap();
        drop(near);
        let ended = tell_digest(far, &Still, |teller| {
            teller.begins(u64::MAX);
            // What it says first may still be under way when the peer is gone.
            while teller.advance(TOLD_EVERY_BYTES) {}
            Err(RunError::Link(io::ErrorKind::Interrupted.into()))
        });
        assert!(matches!(ended, Err(RunError::Link(_))), "{ended:?}");
    }

    #[test]
    fn why_there_is_no_digest_is_told() {
        let (near, far) = Link::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (_, far) = hear(far).unwrap();
                tell_digest(far, &Still, |_| {
                    Err(RunError::Host(io::Error::other("the disk is gone")))
                })
                .unwrap_err();
            });
            let told = ask_digest(near, request(false), &Still, &mut |_, _| ()).unwrap_err();
            assert!(told.to_string().contains("the disk is gone"), "{told}");
        });
    }

    /// What is made of a peer that says `bytes` first and then nothing, and what it hears.
    fn heard_of(bytes: &[u8]) -> (Result<Wish, RunError>, Vec<u8>) {
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(bytes).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        let wish = hear(Link::local(far).unwrap()).map(|(wish, _)| wish);
        let mut said = Vec::new();
        near.read_to_end(&mut said).unwrap();
        (wish, said)
    }

    #[test]
    fn a_peer_whose_first_words_make_no_sense_is_told_so() {
        let framed = |frame: Frame| {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, &frame.encode()).unwrap();
            bytes
        };
        let digest = framed(Frame::Digest(request(true)));
        let (wish, said) = heard_of(&[vec![0; 8], digest.clone()].concat());
        assert_eq!(
            (wish.unwrap(), said),
            (Wish::Digest(request(true)), vec![]),
            "signs of life come before"
        );
        let too_long = (u32::try_from(FRAME_BYTES_MAX).unwrap() + 1).to_le_bytes();
        for bytes in [
            too_long.to_vec(),
            [&5_u32.to_le_bytes()[..], &[99; 5]].concat(),
            framed(Frame::Compared(1)),
            framed(Frame::Digested(digested(None))),
        ] {
            let (wish, said) = heard_of(&bytes);
            assert!(matches!(wish, Err(RunError::Session(_))), "{wish:?}");
            let told = Frame::decode(&said[4..]).unwrap();
            assert!(matches!(told, Frame::Abort(reason) if !reason.is_empty()));
        }
        for cut in 0..digest.len() {
            assert!(
                matches!(heard_of(&digest[..cut]).0, Err(RunError::Link(_))),
                "{cut}"
            );
        }
    }
}
