//! How the configuration of a run differs from that of the job that it wants to go on with.

use std::collections::{BTreeMap, BTreeSet};

/// One line for people per setting that differs, in the order of their names, without those that
/// may change from run to run.
pub fn differences(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    may_change: &[&str],
) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value =
        |of: &BTreeMap<String, String>, name: &String| match of.get(name).map(String::as_str) {
            None => "not set".to_owned(),
            Some("") => "empty".to_owned(),
            Some(value) => value.to_owned(),
        };
    names
        .into_iter()
        .filter(|name| !may_change.contains(&name.as_str()) && old.get(*name) != new.get(*name))
        .map(|name| {
            let (before, now) = (value(old, name), value(new, name));
            format!("{name}: {before} in the state, {now} now")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        settings.iter().map(owned).collect()
    }

    #[test]
    fn each_difference_is_a_line_with_both_values() {
        let old = config(&[
            ("keep", "0s"),
            ("wait", "10s"),
            ("window", "15m"),
            ("to", "x"),
        ]);
        let new = config(&[("keep", ""), ("slide", "1m"), ("wait", "10s"), ("to", "y")]);
        assert_eq!(
            differences(&old, &new, &["to"]),
            [
                "keep: 0s in the state, empty now",
                "slide: not set in the state, 1m now",
                "window: 15m in the state, not set now",
            ]
        );
        assert!(differences(&old, &old, &[]).is_empty());
    }
}
