//! One section of the file, read key by key.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{Mistakes, Wrong, nearest};

/// A table of the file and how to speak of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Section<'a, 'i> {
    table: &'a DeTable<'i>,
    /// As in `[kernel]`, or empty for the keys before the first section.
    title: &'static str,
    /// Byte offset of its beginning, the place of what is missing in it.
    offset: usize,
}

impl<'a, 'i> Section<'a, 'i> {
    /// The file itself; notes every key that is not among `known`.
    pub(crate) fn root(table: &'a DeTable<'i>, known: &[&'static str], mistakes: &mut Mistakes<'_>) -> Self {
        let section = Self {
            table,
            title: "",
            offset: 0,
        };
        section.note_unknown_keys(known, mistakes);
        section
    }

    /// The section `key` of the file, which may have the keys `known`, or `None` if it is absent or no section.
    pub(crate) fn subsection(
        &self,
        key: &'static str,
        known: &[&'static str],
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Self> {
        let value = self.table.get(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            let what = format!("{key} is a section, here it is {}", described(value.get_ref()));
            mistakes.note(
                value.span().start,
                Wrong::new(
                    what,
                    format!("write [{key}] on a line of its own and its keys below"),
                ),
            );
            return None;
        };
        let section = Self {
            table,
            title: key,
            offset: value.span().start,
        };
        section.note_unknown_keys(known, mistakes);
        Some(section)
    }

    /// Every section of the list `key`, written as `[[key]]`.
    pub(crate) fn list(
        &self,
        key: &'static str,
        known: &[&'static str],
        mistakes: &mut Mistakes<'_>,
    ) -> Vec<Self> {
        let Some(value) = self.table.get(key) else {
            return Vec::new();
        };
        let mend = format!("write [[{key}]] on a line of its own and its keys below, once for each");
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!(
                "{key} is a list of sections, here it is {}",
                described(value.get_ref())
            );
            mistakes.note(value.span().start, Wrong::new(what, mend));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                let what = format!(
                    "{key} is a list of sections, here is {}",
                    described(item.get_ref())
                );
                mistakes.note(item.span().start, Wrong::new(what, mend.clone()));
                continue;
            };
            let section = Self {
                table,
                title: key,
                offset: item.span().start,
            };
            section.note_unknown_keys(known, mistakes);
            sections.push(section);
        }
        sections
    }

    /// Notes that the section itself is wrong.
    pub(crate) fn note(&self, wrong: Wrong, mistakes: &mut Mistakes<'_>) {
        mistakes.note(self.offset, wrong);
    }

    fn note_unknown_keys(&self, known: &[&'static str], mistakes: &mut Mistakes<'_>) {
        for (key, _) in self.table {
            let word = key.get_ref().as_ref();
            if known.contains(&word) {
                continue;
            }
            let mend = match nearest(word, known) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("remove it; known here: {}", known.join(", ")),
            };
            let what = format!("unknown key {word:?}{}", self.place());
            mistakes.note(key.span().start, Wrong::new(what, mend));
        }
    }

    fn place(&self) -> String {
        if self.title.is_empty() {
            String::new()
        } else {
            format!(" in [{}]", self.title)
        }
    }

    /// The value of `key` as `read` understands it, `None` if it is absent or wrong; what is wrong is noted.
    pub(crate) fn optional<T>(
        &self,
        key: &str,
        mistakes: &mut Mistakes<'_>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value: &Spanned<DeValue<'_>> = self.table.get(key)?;
        match read(value.get_ref()) {
            Ok(read) => Some(read),
            Err(wrong) => {
                let what = format!("{key} {}", wrong.what);
                mistakes.note(value.span().start, Wrong::new(what, wrong.mend));
                None
            }
        }
    }

    /// As [`Section::optional`], but a missing key is a mistake too; `example` shows how to write it.
    pub(crate) fn required<T>(
        &self,
        key: &str,
        example: &str,
        mistakes: &mut Mistakes<'_>,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if self.table.get(key).is_none() {
            let what = format!("{key} is missing{}", self.place());
            mistakes.note(
                self.offset,
                Wrong::new(what, format!("add a line such as {example}")),
            );
            return None;
        }
        self.optional(key, mistakes, read)
    }
}

/// What kind of value this is, in words.
pub(crate) fn described(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}
