//! The directory of one run: console logs, captures, disks; and a short path for its sockets.
//!
//! Unix socket paths end at 107 bytes, and a workspace may lie deeper than that; sockets therefore live in a
//! directory of the system's temporary directory, which is always removed. The run's own directory is removed when
//! the run says that it went well, and otherwise kept and named on standard error.

use super::error::{Error, Result};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// See the module.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    sockets: TempDir,
    kept: bool,
}

impl RunDirectory {
    /// Makes `runs/<name>-<pid>-<n>` in the lab's directory.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(lab_directory: &Path, name: &str) -> Result<Self> {
        let runs = lab_directory.join("runs");
        std::fs::create_dir_all(&runs).map_err(Error::file("create", &runs))?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{name}-{}-", std::process::id()))
            .tempdir_in(&runs)
            .map_err(Error::file("create a directory in", &runs))?
            .keep();
        let sockets = tempfile::Builder::new()
            .prefix("antipode-lab-")
            .tempdir()
            .map_err(Error::file("create a directory in", &std::env::temp_dir()))?;
        Ok(Self {
            path,
            sockets,
            kept: true,
        })
    }

    /// Where logs and disks of this run lie.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path for a socket of this name.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }

    /// Removes everything at once, for a run that is given up while other threads still use it.
    pub fn abandon(&self) {
        for directory in [self.path.as_path(), self.sockets.path()] {
            // Whoever writes there may be quicker; the directory is scratch.
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    /// The run went well: nothing of it is kept.
    pub fn finish(mut self) {
        self.kept = false;
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        if self.kept {
            eprintln!("lab: the logs of this run are kept in {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("lab: cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_run_keeps_its_logs_and_a_good_one_nothing() {
        let lab = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(lab.path(), "t").unwrap();
        let (logs, sockets) = (run.path().to_owned(), run.socket("s"));
        assert!(sockets.as_os_str().len() < 100 && sockets.parent().unwrap().exists());
        drop(run);
        assert!(logs.exists() && !sockets.parent().unwrap().exists());
        let run = RunDirectory::create(lab.path(), "t").unwrap();
        let logs = run.path().to_owned();
        run.finish();
        assert!(!logs.exists());
    }
}
