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

const START: &str = "\nservice_run() {\n";

/// Writes the initrd: the image's, then `load` and a script that starts it with `arguments` before the service.
///
/// # Errors
/// A file that cannot be read or written, or a service whose script has no place to start it.
pub fn write_initrd(image: &Image, load: &Path, arguments: &str, to: &Path) -> io::Result<()> {
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

fn script(service: Service, arguments: &str) -> Option<String> {
    let start = format!("    /usr/bin/antipode-lab-load {arguments} > /dev/null 2>&1 &\n");
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
            let script = script(service, "echo 7").unwrap();
            let (load, service) = (script.find("antipode-lab-load echo 7"), script.find(last));
            assert!(load.is_some() && load < service, "{script}");
        }
    }
}
