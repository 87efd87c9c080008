//! The exit codes as an operator knows them: read from `docs/exit-codes.md`, since the lab imports nothing of the
//! product.

const PAGE: &str = include_str!("../../../../docs/exit-codes.md");

/// The number of a documented code.
pub(super) fn number(name: &str) -> Option<u8> {
    PAGE.lines().find_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let number = cells.next()?.parse().ok()?;
        (cells.next()?.trim_matches('`') == name).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_codes_are_found_by_name() {
        assert_eq!(number("done"), Some(0));
        assert_eq!(number("guest-panic"), Some(21));
        assert_eq!(number("flight"), None);
    }
}
