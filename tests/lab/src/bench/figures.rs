//! Figures with the samples that they come of, and what they must be. Pure.

use super::summary::{Bound, Spread, exit_code};
use crate::scenario::report::rounded;
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// What of a figure's samples is held against its bound.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Judged {
    Median,
    /// Each of them must be in bounds.
    Greatest,
}

/// A figure's name, its samples, and what it must be, if anything.
#[derive(Debug, Clone, PartialEq)]
struct Figure {
    name: String,
    spread: Option<Spread>,
    judged: Judged,
    bound: Option<Bound>,
}

impl Figure {
    /// What counts; no number if nothing was measured.
    fn value(&self) -> f64 {
        self.spread.map_or(f64::NAN, |spread| match self.judged {
            Judged::Median => spread.median,
            Judged::Greatest => spread.max,
        })
    }

    fn is_kept(&self) -> bool {
        self.bound.is_none_or(|bound| bound.holds(self.value()))
    }
}

/// Figures in the order in which they are told.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<Figure>);

impl Figures {
    /// A figure that nothing is asked of.
    pub(super) fn free(&mut self, name: impl Into<String>, values: Vec<f64>) {
        self.add(name, values, Judged::Median, None);
    }

    /// One of which the median must be in bounds.
    pub(super) fn bounded(&mut self, name: impl Into<String>, values: Vec<f64>, bound: Bound) {
        self.add(name, values, Judged::Median, Some(bound));
    }

    /// One of which each sample must be in bounds.
    pub(super) fn each(&mut self, name: impl Into<String>, values: Vec<f64>, bound: Bound) {
        self.add(name, values, Judged::Greatest, Some(bound));
    }

    fn add(&mut self, name: impl Into<String>, values: Vec<f64>, judged: Judged, bound: Option<Bound>) {
        self.0.push(Figure {
            name: name.into(),
            spread: Spread::of(values),
            judged,
            bound,
        });
    }

    /// Tells them: in one line of JSON with what is told `beside` them, or as text. How the bench ends.
    pub(super) fn conclude(&self, json: bool, beside: Value) -> ExitCode {
        let broken = self.broken();
        if json {
            let mut line = beside;
            line["ok"] = json!(broken.is_empty());
            line["out_of_bounds"] = json!(broken);
            line["figures"] = self.to_json();
            println!("{line}");
        } else {
            self.show();
        }
        exit_code(&broken)
    }

    /// Those out of their bounds. What could not be computed is.
    pub(super) fn broken(&self) -> Vec<&str> {
        let broken = self.0.iter().filter(|figure| !figure.is_kept());
        broken.map(|figure| figure.name.as_str()).collect()
    }

    /// Every figure by its name.
    pub(super) fn to_json(&self) -> Value {
        let mut figures = Map::new();
        for figure in &self.0 {
            let mut shown = json!({ "value": rounded(figure.value()) });
            if let Some(Spread { median, min, max }) = figure.spread {
                shown["median"] = json!(rounded(median));
                shown["min"] = json!(rounded(min));
                shown["max"] = json!(rounded(max));
            }
            if let Some(bound) = figure.bound {
                shown["bound"] = json!(bound.to_string());
                shown["kept"] = json!(figure.is_kept());
            }
            figures.insert(figure.name.clone(), shown);
        }
        Value::Object(figures)
    }

    fn show(&self) {
        for figure in &self.0 {
            let verdict = if figure.is_kept() { "kept" } else { "BROKEN" };
            let bound = figure
                .bound
                .map_or_else(String::new, |bound| format!("  {bound}: {verdict}"));
            let (min, max) = figure
                .spread
                .map_or((f64::NAN, f64::NAN), |spread| (spread.min, spread.max));
            println!(
                "{:<40}{:>12.3}  ({min:.3} to {max:.3}){bound}",
                figure.name,
                figure.value()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_or_each_sample_does() {
        let mut figures = Figures::default();
        figures.bounded("half", vec![1.0, 2.0, 9.0], Bound::AtMost(2.0));
        figures.each("all", vec![1.0, 2.0, 9.0], Bound::AtMost(2.0));
        figures.bounded("unknown", Vec::new(), Bound::AtMost(2.0));
        figures.free("shown", vec![4.0]);
        assert_eq!(figures.broken(), ["all", "unknown"]);
        let shown = figures.to_json();
        assert_eq!(
            shown["half"],
            json!({ "value": 2.0, "median": 2.0, "min": 1.0, "max": 9.0, "bound": "at most 2", "kept": true })
        );
        assert_eq!(
            (&shown["all"]["value"], &shown["shown"]["value"]),
            (&json!(9.0), &json!(4.0))
        );
        assert_eq!(shown["unknown"]["value"], Value::Null);
    }
}
