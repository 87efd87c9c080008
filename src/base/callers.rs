//! Calls from elsewhere, each served on a thread of its own: one that says nothing holds up nobody.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// After an error of the host's, which come at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// One call under way, for as long as it lives.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    /// None where there are `most` already.
    fn begin(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let one_more = |count| (count < most).then_some(count + 1);
        let begun = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        begun.ok().map(|_| Self(Arc::clone(count)))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes calls for as long as the process lives, and has each served by `serve`: `most` at a time, further ones are closed.
pub fn take_calls(
    listener: &TcpListener,
    most: usize,
    serve: impl Fn(TcpStream, SocketAddr) + Clone + Send + 'static,
) -> ! {
    let count = Arc::default();
    loop {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a call could not be taken: {error}");
                thread::park_timeout(PAUSE);
                continue;
            }
        };
        let Some(under_way) = UnderWay::begin(&count, most) else {
            tracing::warn!(%from, "too many calls are under way; this one is closed");
            continue;
        };
        let serve = serve.clone();
        let serving = thread::Builder::new().name("call".into()).spawn(move || {
            serve(stream, from);
            drop(under_way);
        });
        if let Err(error) = serving {
            tracing::warn!(%from, "a call could not be taken: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn calls_are_served_beside_each_other_and_too_many_are_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            take_calls(&listener, 2, |mut stream, _| {
                let mut byte = [0];
                // One that ends without a word is over too.
                if stream.read_exact(&mut byte).is_ok() {
                    let _ = stream.write_all(&byte);
                }
            })
        });
        let call = || TcpStream::connect(address).unwrap();
        let answer = |stream: &mut TcpStream| {
            let mut told = Vec::new();
            // A call that is closed may end by a reset.
            let _ = stream
                .write_all(b"x")
                .and_then(|()| stream.read_to_end(&mut told).map(drop));
            told
        };
        let (silent, mut second) = (call(), call());
        let mut third = call();
        assert_eq!(answer(&mut third), b"", "two are under way");
        assert_eq!(answer(&mut second), b"x", "a silent one holds up nobody");
        drop(silent);
        // Their threads end in their own time.
        while answer(&mut call()) != b"x" {}
    }
}
