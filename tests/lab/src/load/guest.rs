//! A guest with this program in it: an image, unchanged, and a second archive laid over it.
//!
//! Linux unpacks initramfs archives one after another and lets the later file win, so the second archive adds
//! `antipode-lab-load` and a service script that starts it beside the service.

use crate::archive::cpio::Archive;
use crate::image::{Image, Service};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The port of [`super::watch::probe::echo`] in a guest.
pub const ECHO_PORT: u16 = 7;

/// The port of [`super::ends::serve`] in a guest.
pub const ORDER_PORT: u16 = 7_001;

/// For a guest's command line: Linux sizes the packets of a stream by the rate that the stream has, so on a slow host they
/// stay small, which keeps the rate down, and a stream settles at one of two rates by chance. With at least so many
/// segments a packet there is one.
pub const LARGE_PACKETS: &str = "sysctl.net.ipv4.tcp_min_tso_segs=16";

const START: &str = "\nservice_run() {\n";

/// Writes the initrd: the image's, then `load` and a script that starts it before the service, once with each of
/// `arguments`.
///
/// # Errors
/// A file that cannot be read or written, or a service whose script has no place to start it.
pub fn write_initrd(image: &Image, load: &Path, arguments: &[String], to: &Path) -> io::Result<()> {
    let mut archive = Archive::new();
    archive.host_file("usr/bin/antipode-lab-load", 0o755, load);
    let script = script(image.manifest.recipe.service, arguments)
        .ok_or_else(|| io::Error::other("the service's script has no service_run"))?;
    archive.file("etc/antipode/service", 0o644, script);
    let mut first = File::open(&image.initrd)?;
    let mut out = BufWriter::new(File::create(to)?);
    io::copy(&mut first, &mut out)?;
    archive.write(&mut out)?;
    out.flush()
}

fn script(service: Service, arguments: &[String]) -> Option<String> {
    let start = |words| format!("    /usr/bin/antipode-lab-load {words} > /dev/null 2>&1 &\n");
    let start: String = arguments.iter().map(start).collect();
    let script = service.script();
    let at = script.find(START)? + START.len();
    Some([&script[..at], &start, &script[at..]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_starts_before_the_service_takes_the_shell_over() {
        for (service, last) in [
            (Service::Redis, "exec "),
            (Service::Postgres, "as_postgres $programs/postgres"),
        ] {
            let arguments = ["echo 7", "serve 8"].map(str::to_owned);
            let script = script(service, &arguments).unwrap();
            for words in arguments {
                let load = script.find(&format!("antipode-lab-load {words} > /dev/null 2>&1 &\n"));
                assert!(load.is_some() && load < script.find(last), "{script}");
            }
        }
    }
}
