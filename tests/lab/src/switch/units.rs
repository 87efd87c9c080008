//! Quantities as people write them: `20ms`, `0.5%`, `100mbit`.

/// Microseconds from `250us`, `20ms`, `1.5s`.
///
/// # Errors
/// Words naming what is accepted.
pub fn micros(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is no duration; write 250us, 20ms or 1.5s");
    let (number, unit) = split(text).ok_or_else(expected)?;
    let factor = match unit {
        "us" | "µs" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        _ => return Err(expected()),
    };
    scaled(number, factor).ok_or_else(expected)
}

/// Parts per million from `0.5%` or `100ppm`.
///
/// # Errors
/// Words naming what is accepted.
pub fn parts_per_million(text: &str) -> Result<u32, String> {
    let expected = || format!("`{text}` is no share; write 0.5% or 100ppm, at most 100%");
    let (number, unit) = split(text).ok_or_else(expected)?;
    let factor = match unit {
        "%" => 10_000,
        "ppm" => 1,
        _ => return Err(expected()),
    };
    let parts = scaled(number, factor).and_then(|parts| u32::try_from(parts).ok());
    parts
        .filter(|parts| *parts <= super::link::PARTS_PER_MILLION)
        .ok_or_else(expected)
}

/// Bits per second from `64kbit`, `100mbit`, `1gbit`; 0 from `unlimited`.
///
/// # Errors
/// Words naming what is accepted.
pub fn bits_per_second(text: &str) -> Result<u64, String> {
    let expected = || format!("`{text}` is no rate; write 64kbit, 100mbit, 1gbit or unlimited");
    if text == "unlimited" {
        return Ok(0);
    }
    let (number, unit) = split(text).ok_or_else(expected)?;
    let factor = match unit {
        "kbit" => 1_000,
        "mbit" => 1_000_000,
        "gbit" => 1_000_000_000,
        _ => return Err(expected()),
    };
    // Zero means no limit inside: nobody who writes 0mbit means that.
    scaled(number, factor)
        .filter(|rate| *rate > 0)
        .ok_or_else(expected)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.')?;
    Some(text.split_at(end))
}

/// `number` × `factor`, exact, rounding a fraction that is left down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    let mut value = whole.checked_mul(factor)?;
    let mut unit = factor;
    for digit in fraction.chars() {
        unit /= 10;
        value = value.checked_add(u64::from(digit.to_digit(10)?).checked_mul(unit)?)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        assert_eq!(micros("250us"), Ok(250));
        assert_eq!(micros("1.5s"), Ok(1_500_000));
        assert_eq!(parts_per_million("0.5%"), Ok(5_000));
        assert_eq!(parts_per_million("100%"), Ok(1_000_000));
        assert_eq!(bits_per_second("2.5gbit"), Ok(2_500_000_000));
        assert_eq!(bits_per_second("unlimited"), Ok(0));
    }

    #[test]
    fn what_is_none_says_what_is() {
        for text in ["", "5", "ms", "5 ms", "-5ms", "1.2.3ms", "99999999999999999999s"] {
            assert!(micros(text).unwrap_err().contains("20ms"), "{text}");
        }
        assert!(parts_per_million("101%").is_err());
        assert!(bits_per_second("0mbit").is_err());
    }
}
