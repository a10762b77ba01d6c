//! The text format in which Prometheus reads metrics, version 0.0.4.
//!
//! Written by hand: the official client keeps counters of its own, to which every place that counts
//! would have to write, or has each metric made into an object at each scrape. Here all numbers are
//! read from the counters that the summary is made of, so that the two cannot differ, and a family
//! is a line of code.

use std::fmt::{Display, Write};

use crate::runtime::metrics::durations::Durations;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of durations, in seconds.
const BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Names and values of labels.
pub type Labels<'a> = &'a [(&'a str, &'a dyn Display)];

/// The text, family by family.
#[derive(Debug, Default)]
pub struct Text(String);

/// The series of one family, while they are written.
pub struct Family<'t> {
    name: &'static str,
    text: &'t mut String,
}

impl Text {
    /// The whole text.
    pub fn into_string(self) -> String {
        self.0
    }

    /// A number that only grows, from 0 at the start of the process.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// A number that comes and goes.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing into memory does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            name,
            text: &mut self.0,
        }
    }

    /// How long something took, each time.
    pub fn histogram(&mut self, name: &'static str, help: &str, durations: &Durations) {
        let buckets = durations.buckets(&BOUNDS);
        let family = self.family(name, "histogram", help);
        for (bound, count) in BOUNDS.iter().zip(&buckets.cumulative) {
            series(family.text, name, "_bucket", &[("le", bound)], count);
        }
        series(
            family.text,
            name,
            "_bucket",
            &[("le", &"+Inf")],
            buckets.count,
        );
        series(family.text, name, "_sum", &[], buckets.sum);
        series(family.text, name, "_count", &[], buckets.count);
    }
}

impl Family<'_> {
    /// One series.
    pub fn set(&mut self, labels: Labels<'_>, value: impl Display) {
        series(self.text, self.name, "", labels, value);
    }

    /// One series, if its value is known.
    pub fn set_known(&mut self, labels: Labels<'_>, value: Option<impl Display>) {
        if let Some(value) = value {
            self.set(labels, value);
        }
    }
}

fn series(text: &mut String, name: &str, suffix: &str, labels: Labels<'_>, value: impl Display) {
    // Writing into memory does not fail.
    let _ = write!(text, "{name}{suffix}");
    for (at, (label, value)) in labels.iter().enumerate() {
        let before = if at == 0 { '{' } else { ',' };
        let _ = write!(text, "{before}{label}=\"{}\"", escaped(&value.to_string()));
    }
    let after = if labels.is_empty() { "" } else { "}" };
    let _ = writeln!(text, "{after} {value}");
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            letter => text.push(letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn families_have_their_help_and_type_before_their_series() {
        let mut text = Text::default();
        let mut rows = text.counter("rows_total", "Rows.");
        rows.set(&[("output", &"windows"), ("part", &3)], 7);
        rows.set(&[], 0.5);
        text.gauge("empty", "Nothing yet.")
            .set_known(&[], None::<u64>);
        let expected = "# HELP rows_total Rows.\n# TYPE rows_total counter\n\
                        rows_total{output=\"windows\",part=\"3\"} 7\nrows_total 0.5\n\
                        # HELP empty Nothing yet.\n# TYPE empty gauge\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn values_of_labels_cannot_break_out_of_their_quotes() {
        let mut text = Text::default();
        let name = "a\"b\\c\nd";
        text.gauge("x", "X.").set(&[("name", &name)], 1);
        let text = text.into_string();
        assert!(text.ends_with("x{name=\"a\\\"b\\\\c\\nd\"} 1\n"), "{text}");
    }

    #[test]
    fn a_histogram_ends_with_all_of_them() {
        let mut durations = Durations::default();
        durations.record(Duration::from_millis(2));
        durations.record(Duration::from_secs(3600));
        let mut text = Text::default();
        text.histogram("took_seconds", "How long.", &durations);
        let text = text.into_string();
        for line in [
            "took_seconds_bucket{le=\"0.001\"} 0\n",
            "took_seconds_bucket{le=\"0.0025\"} 1\n",
            "took_seconds_bucket{le=\"300\"} 1\n",
            "took_seconds_bucket{le=\"+Inf\"} 2\n",
            "took_seconds_count 2\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
