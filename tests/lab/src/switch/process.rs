//! The switch as a child process of the lab.

use super::client::{Client, Error as ClientError};
use super::control::Config;
use crate::host::launcher::{OwnedChild, dying_with_us, launch};
use crate::host::{Error, Result};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// A running switch; it ends when this is dropped.
#[derive(Debug)]
pub struct SwitchProcess {
    control: PathBuf,
    _child: OwnedChild,
}

impl SwitchProcess {
    /// Starts this executable again as a switch and waits until hosts may be started. Only the `antipode-lab` binary
    /// can do that: a test drives that binary from outside.
    ///
    /// # Errors
    /// If it cannot be started; its own words then went to standard error.
    pub fn start(config: &Config, directory: &Path) -> Result<Self> {
        let path = directory.join("switch.json");
        let text = serde_json::to_vec_pretty(config).map_err(std::io::Error::from);
        text.and_then(|text| std::fs::write(&path, text))
            .map_err(Error::file("write", &path))?;
        let executable =
            std::env::current_exe().map_err(Error::file("find", Path::new("this executable")))?;
        let mut command = dying_with_us(executable);
        command
            .arg("switch")
            .arg("--config")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = launch(command)?;
        let mut line = String::new();
        if let Some(stdout) = child.0.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut line)
                .map_err(Error::file("hear from the switch of", &path))?;
        }
        if line.trim() != "ready" {
            let reason = "it ended before it was ready, and said why above".to_owned();
            return Err(ClientError::Refused(reason).into());
        }
        Ok(Self {
            control: config.control.clone(),
            _child: child,
        })
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// A connection to it.
    ///
    /// # Errors
    /// If it has ended.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.control)?)
    }
}
