//! Single values: from what the file says to a type that keeps its limits.

use toml::de::DeValue;
use toml::value::{Date, Datetime, Offset, Time};

use super::{ConsoleMode, Kept, MacAddress, TapName, UnixSeconds, VmName};
use crate::base::configuration::values::text;
use crate::base::configuration::{Wrong, described, nearest};
use crate::base::limits::{
    CMDLINE_BYTES_MAX, GUEST_RAM_BYTES_MAX, GUEST_RAM_BYTES_MIN, INTERFACE_NAME_BYTES_MAX, VM_NAME_BYTES_MAX,
};
use crate::base::units::MEBIBYTE;

const CONSOLE_MODES: &[&str] = &["interactive", "output-only", "off"];

pub(super) fn vm_name(value: &DeValue<'_>) -> Result<VmName, Wrong> {
    let name = text(value)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let fits = (1..=VM_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if fits {
        Ok(VmName(name.to_owned()))
    } else {
        Err(Wrong::new(
            format!("{name:?} is no VM name"),
            format!("use 1 to {VM_NAME_BYTES_MAX} of a-z, 0-9 and -, with no - at either end"),
        ))
    }
}

pub(super) fn memory_bytes(value: &DeValue<'_>) -> Result<u64, Wrong> {
    const MIB_MIN: u64 = GUEST_RAM_BYTES_MIN / MEBIBYTE;
    const MIB_MAX: u64 = GUEST_RAM_BYTES_MAX / MEBIBYTE;
    let mend = format!("give a whole number of mebibytes from {MIB_MIN} to {MIB_MAX}");
    let Some(number) = value.as_integer() else {
        return Err(Wrong::new(
            format!("must be a whole number, here it is {}", described(value)),
            mend,
        ));
    };
    u64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .filter(|mib| (MIB_MIN..=MIB_MAX).contains(mib))
        .map(|mib| mib * MEBIBYTE)
        .ok_or_else(|| Wrong::new(format!("is {number}, outside what a guest can have"), mend))
}

pub(super) fn cmdline(value: &DeValue<'_>) -> Result<String, Wrong> {
    let words = text(value)?;
    if let Some(odd) = words.chars().find(|c| !matches!(c, ' '..='~')) {
        return Err(Wrong::new(
            format!("holds {odd:?}, which no kernel command line carries"),
            "keep to printable ASCII on one line",
        ));
    }
    if words.len() > CMDLINE_BYTES_MAX {
        return Err(Wrong::new(
            format!("is {} bytes long", words.len()),
            format!("keep it to {CMDLINE_BYTES_MAX}, or the kernel cuts it off"),
        ));
    }
    Ok(words.to_owned())
}

pub(super) fn tap_name(value: &DeValue<'_>) -> Result<TapName, Wrong> {
    let name = text(value)?;
    // What the kernel's dev_valid_name refuses, and % with which a name is a template for a new one.
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    let fits = (1..=INTERFACE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..");
    if fits {
        Ok(TapName(name.to_owned()))
    } else {
        Err(Wrong::new(
            format!("{name:?} is no interface name"),
            format!("use 1 to {INTERFACE_NAME_BYTES_MAX} printable characters without / : and %"),
        ))
    }
}

pub(super) fn mac(value: &DeValue<'_>) -> Result<MacAddress, Wrong> {
    let written = text(value)?;
    let example = "write six pairs of hexadecimal digits, such as \"02:00:00:00:00:01\"";
    let Some(octets) = mac_octets(written) else {
        return Err(Wrong::new(format!("{written:?} is no Ethernet address"), example));
    };
    if octets[0] & 1 == 1 {
        return Err(Wrong::new(
            format!("{written} is a multicast address, which no card can have"),
            "make the first pair even, such as 02",
        ));
    }
    if octets == [0; 6] {
        return Err(Wrong::new("is all zeros, which no card can have", example));
    }
    Ok(MacAddress(octets))
}

fn mac_octets(written: &str) -> Option<[u8; 6]> {
    let octets = written
        .split(':')
        .map(|pair| {
            let digits = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(pair, 16).ok())?
        })
        .collect::<Option<Vec<u8>>>()?;
    octets.try_into().ok()
}

const OUTPUTS: &[&str] = &["received", "verified"];

/// Whether outputs are verified.
pub(super) fn output(value: &DeValue<'_>) -> Result<bool, Wrong> {
    match text(value)? {
        "received" => Ok(false),
        "verified" => Ok(true),
        other => Err(none_of(OUTPUTS, other, "word by which outputs leave")),
    }
}

/// How a copy is kept the same.
pub(super) fn mode(value: &DeValue<'_>) -> Result<Kept, Wrong> {
    let written = text(value)?;
    let meant = Kept::ALL.iter().find(|kept| kept.name() == written);
    meant.copied().ok_or_else(|| {
        let names: Vec<&str> = Kept::ALL.iter().map(|kept| kept.name()).collect();
        none_of(&names, written, "way in which a copy is kept the same")
    })
}

/// What is written is no `what`, which are these.
fn none_of(these: &[&str], written: &str, what: &str) -> Wrong {
    Wrong::new(
        format!("{written:?} is no {what}"),
        match nearest(written, these) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => format!("use one of {}", these.join(", ")),
        },
    )
}

pub(super) fn console_mode(value: &DeValue<'_>) -> Result<ConsoleMode, Wrong> {
    match text(value)? {
        "interactive" => Ok(ConsoleMode::Interactive),
        "output-only" => Ok(ConsoleMode::OutputOnly),
        "off" => Ok(ConsoleMode::Off),
        other => Err(none_of(CONSOLE_MODES, other, "console mode")),
    }
}

pub(super) fn start_time(value: &DeValue<'_>) -> Result<UnixSeconds, Wrong> {
    let example = "write a date and time with an offset and no quotes, such as 2026-01-31T12:00:00Z";
    let moment = value.as_datetime().ok_or_else(|| {
        Wrong::new(
            format!("must be a date and time, here it is {}", described(value)),
            example,
        )
    })?;
    let Datetime {
        date: Some(date),
        time: Some(time),
        offset: Some(offset),
    } = *moment
    else {
        return Err(Wrong::new(
            format!("{moment} names no moment: date, time and offset are needed"),
            example,
        ));
    };
    unix_seconds(date, time, offset).ok_or_else(|| {
        Wrong::new(
            format!("{moment} is outside what the guest's clock can say"),
            "choose a moment from 1970 to 2069",
        )
    })
}

/// The moment in seconds since 1970, if it lies from 1970 to 2069: the real-time clock keeps two digits of the
/// year, which Linux takes for those years.
fn unix_seconds(date: Date, time: Time, offset: Offset) -> Option<UnixSeconds> {
    const SECONDS_TO_2070: i64 = 3_155_760_000;
    let offset_minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let of_day =
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let seconds = days_since_1970(date) * 86_400 + of_day - offset_minutes * 60;
    if !(0..SECONDS_TO_2070).contains(&seconds) {
        return None;
    }
    u64::try_from(seconds).ok().map(UnixSeconds)
}

/// Days from 1970-01-01 to `date` in the Gregorian calendar. Years are counted from March, so that the leap day is
/// a year's last; 719,468 days lie between 0000-03-01 and 1970-01-01.
fn days_since_1970(date: Date) -> i64 {
    let month = i64::from(date.month);
    let year = i64::from(date.year) - i64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}
