//! `antipode-lab-agent`: the lab's hand inside an emulated host, and what holds a thread there. See `antipode_lab::agent`.

use antipode_lab::agent::{PORT_NAME, hold, server};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Finds the virtio-serial port by its name: without udev there is no `/dev/virtio-ports`.
fn port() -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT_NAME) {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no virtio-serial port named {PORT_NAME}"),
    ))
}

fn main() -> ExitCode {
    match serve_or_hold() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("antipode-lab-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve_or_hold() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => serve(),
        [word, thread] if word == "hold" => {
            let thread = thread.parse().map_err(|error| format!("{thread}: {error}"))?;
            hold::hold(thread, io::stdin(), io::stdout()).map_err(|error| error.to_string())
        }
        _ => Err("it serves the lab, or is told to `hold THREAD`".to_owned()),
    }
}

fn serve() -> Result<(), String> {
    let connect = || {
        let path = port()?;
        let file = File::options().read(true).write(true).open(path)?;
        Ok::<_, io::Error>((file.try_clone()?, file))
    };
    connect()
        .map_err(|error| error.to_string())
        .and_then(|(from, to)| server::serve(from, to).map_err(|error| error.to_string()))
}
