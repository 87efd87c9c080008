//! Configuration files: TOML, understood whole, every mistake with its place and what to do (O2).
//!
//! The text becomes a tree whose keys and values know their places ([`toml::de::DeTable`]); whoever knows what the file is
//! about reads it section by section and notes what is wrong. Serde's derive was not taken: it stops at the first mistake.

mod mistake;
mod section;
pub(crate) mod values;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use mistake::ConfigMistake;
pub(crate) use mistake::{Mistakes, Wrong, nearest};
pub(crate) use section::{Section, described};

use super::limits::CONFIG_FILE_BYTES_MAX;

/// Why a configuration file gives no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The file is longer than `limits::CONFIG_FILE_BYTES_MAX` or is no UTF-8 text: surely another kind of file.
    #[error("{} is no configuration: {what}", .path.display())]
    NotConfiguration {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The file has mistakes.
    #[error("{} has {} mistakes", .path.display(), .mistakes.len())]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// Every one of them, in the order of their places; never empty.
        mistakes: Vec<ConfigMistake>,
    },
}

/// Reads the file at `path` and understands it by `parse`, which is given its text and its folder.
///
/// # Errors
/// [`ConfigError`], which the caller shows whole; nothing was started or changed.
pub(crate) fn load<T>(
    path: &Path,
    parse: impl FnOnce(&str, &Path) -> Result<T, Vec<ConfigMistake>>,
) -> Result<T, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let not_configuration = |what| ConfigError::NotConfiguration {
        path: path.to_owned(),
        what,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CONFIG_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(not_configuration("it is longer than 64 KiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| not_configuration("it is not UTF-8 text"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder).map_err(|mistakes| ConfigError::Mistakes {
        path: path.to_owned(),
        mistakes,
    })
}

/// Understands `text` by `read`, which answers `None` only where it has noted a mistake.
///
/// # Errors
/// Every mistake in the text, in the order of their places. Where the text is no TOML, those alone are given:
/// what a broken line meant is not guessed.
pub(crate) fn understand<T>(
    text: &str,
    read: impl FnOnce(&DeTable<'_>, &mut Mistakes<'_>) -> Option<T>,
) -> Result<T, Vec<ConfigMistake>> {
    let mut mistakes = Mistakes::in_text(text);
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    if !syntax_errors.is_empty() {
        for error in syntax_errors {
            let offset = error.span().map_or(0, |span| span.start);
            let wrong = Wrong::new(
                error.message(),
                "write it as TOML: key = value, text in double quotes",
            );
            mistakes.note(offset, wrong);
        }
        return Err(mistakes.into_list());
    }
    match read(document.get_ref(), &mut mistakes) {
        Some(understood) if mistakes.is_empty() => Ok(understood),
        _ => Err(mistakes.into_list()),
    }
}
