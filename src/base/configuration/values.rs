//! Values that every kind of configuration has.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use antipode_certs::Name;
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

/// True or false.
pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| {
        Wrong::new(
            format!("must be true or false, here it is {}", described(value)),
            "write true or false without quotes",
        )
    })
}

/// A name of a site, a node or a VM.
pub(crate) fn name(value: &DeValue<'_>) -> Result<Name, Wrong> {
    let word = text(value)?;
    word.parse().map_err(|_| {
        Wrong::new(
            format!("{word:?} is no name"),
            "use 1 to 63 of a-z, 0-9 and -, with no - at either end",
        )
    })
}

/// A host and a port. Whether the host is there is found out when it is called.
pub(crate) fn address(value: &DeValue<'_>) -> Result<String, Wrong> {
    let word = text(value)?;
    let sound = word.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        let printable = host.chars().all(|letter| letter.is_ascii_graphic());
        !host.is_empty() && bare && printable && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if sound {
        Ok(word.to_owned())
    } else {
        Err(Wrong::new(
            format!("{word:?} is no host with a port"),
            "write host:port, such as north.example.org:7600 or [fd00::1]:7600",
        ))
    }
}

/// An address to listen on.
pub(crate) fn listen(value: &DeValue<'_>) -> Result<SocketAddr, Wrong> {
    text(value)?.parse().map_err(|_| {
        Wrong::new(
            "is no address to listen on",
            "write an IP address and a port, such as 0.0.0.0:7600 or [::]:7600",
        )
    })
}
