//! Values that every kind of configuration has.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::{Wrong, described};

pub(crate) fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| {
        Wrong::new(
            format!("must be a string, here it is {}", described(value)),
            "write it in double quotes",
        )
    })
}

/// A path, taken from `folder` where it is relative.
pub(crate) fn path(value: &DeValue<'_>, folder: &Path) -> Result<PathBuf, Wrong> {
    let written = text(value)?;
    if written.is_empty() || written.contains('\0') {
        return Err(Wrong::new(
            format!("{written:?} is no path"),
            "name a file, absolute or relative to this file's folder",
        ));
    }
    Ok(folder.join(written))
}

/// A whole number within `range`.
pub(crate) fn number(value: &DeValue<'_>, range: &RangeInclusive<u64>) -> Result<u64, Wrong> {
    let mend = format!("give a whole number from {} to {}", range.start(), range.end());
    let Some(number) = value.as_integer() else {
        let what = format!("must be a whole number, here it is {}", described(value));
        return Err(Wrong::new(what, mend));
    };
    u64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| Wrong::new(format!("is {number}, which is out of range"), mend))
}
