//! `highwater state`: what a state holds, what a run would go on from, and whether it is sound.
//!
//! Nothing is changed, and nothing is claimed: a run that uses the state is not disturbed.

use std::io::{self, Write};
use std::time::Duration;

use clap::ArgMatches;
use serde::Serialize;
use serde_json::json;

use self::list::lines;
use self::show::Shown;
use super::error::{CliError, DONE, Outcome};
use super::summary::table;
use super::value::grouped;
use crate::state::verify::{Verdict, verify};
use crate::state::{self, StateError, Storage, StorageOptions};

mod list;
mod show;

/// A server that does not answer is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `state ls`, `state show` or `state verify`.
pub fn command(name: &str, matches: &ArgMatches) -> Outcome {
    let uri = matches.get_one::<String>("uri").map_or("", String::as_str);
    let options = StorageOptions {
        patience: Some(PATIENCE),
        ..StorageOptions::default()
    };
    let storage = state::open(uri, options)?;
    let (out, is_json) = (&mut io::stdout().lock(), matches.get_flag("json"));
    match name {
        "ls" => ls(&*storage, is_json, out),
        "show" => show(&*storage, is_json, out),
        _ => verified(&*storage, is_json, out),
    }
}

impl From<StateError> for CliError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Config(text) => Self::Usage(text),
            other => Self::Failed(other.to_string()),
        }
    }
}

fn ls(storage: &dyn Storage, is_json: bool, out: &mut dyn Write) -> Outcome {
    let lines = lines(storage)?;
    if lines.is_empty() {
        return Err(nothing(storage));
    }
    if is_json {
        lines.iter().try_for_each(|line| json_line(line, out))?;
        return Ok(DONE);
    }
    let titles = ["object", "run", "bytes", "what"]
        .map(str::to_owned)
        .to_vec();
    let cells = |line: &list::Line| {
        let run = line
            .run
            .map_or_else(|| "-".to_owned(), |run| run.to_string());
        vec![
            line.name.clone(),
            run,
            grouped(line.bytes),
            line.what.clone(),
        ]
    };
    let rows: Vec<_> = [titles]
        .into_iter()
        .chain(lines.iter().map(cells))
        .collect();
    write!(out, "{}", table(&rows))?;
    Ok(DONE)
}

fn show(storage: &dyn Storage, is_json: bool, out: &mut dyn Write) -> Outcome {
    let shown = Shown::read(storage)?.ok_or_else(|| nothing(storage))?;
    if is_json {
        json_line(&shown, out)?;
    } else {
        write!(out, "{}", shown.text())?;
    }
    Ok(DONE)
}

fn verified(storage: &dyn Storage, is_json: bool, out: &mut dyn Write) -> Outcome {
    let verdict = verify(storage)?;
    if verdict.objects == 0 {
        return Err(nothing(storage));
    }
    if is_json {
        let state = storage.name();
        json_line(&json!({"state": state, "verdict": verdict}), out)?;
    } else {
        write!(out, "{}", verdict_text(storage, &verdict))?;
    }
    if verdict.findings.is_empty() {
        Ok(DONE)
    } else {
        Err(CliError::Difference)
    }
}

fn verdict_text(storage: &dyn Storage, verdict: &Verdict) -> String {
    let mut text = String::new();
    for finding in &verdict.findings {
        text.push_str(&format!("{}: {}\n", finding.name, finding.problem));
    }
    let result = match verdict.findings.len() {
        0 => "sound".to_owned(),
        1 => "1 problem".to_owned(),
        problems => format!("{problems} problems"),
    };
    let (objects, bytes) = (grouped(verdict.objects), grouped(verdict.bytes));
    let place = storage.name();
    text.push_str(&format!(
        "{place}: {result}; read {objects} objects, {bytes} bytes\n"
    ));
    if !verdict.unnamed.is_empty() {
        let names = verdict.unnamed.join(" ");
        text.push_str(&format!("not part of a finished checkpoint: {names}\n"));
    }
    text
}

fn json_line(value: &impl Serialize, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", serde_json::to_string(value)?)
}

/// There is no state.
pub fn nothing(storage: &dyn Storage) -> CliError {
    CliError::Failed(format!(
        "{}: there is no state; `highwater run ... --state {}` makes one",
        storage.name(),
        storage.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::MemoryStorage;
    use crate::state::testing::sample;

    fn text(outcome: impl Fn(&mut dyn Write) -> Outcome) -> String {
        let mut out = Vec::new();
        outcome(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_object_is_a_line() {
        let storage = sample();
        let text = text(|out| ls(&*storage, false, out));
        assert_eq!(text.lines().count(), 1 + storage.objects().len());
        for expected in [
            "takeover by test",
            "job cars",
            "epoch 19",
            "manifest of epoch 19",
            "epochs 0 to 8",
            "worker 0, all of it, 0 entries",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_damaged_object_is_a_line_as_well() {
        let storage = sample();
        let name = storage.objects().keys().next().unwrap().clone();
        storage.objects().get_mut(&name).unwrap().truncate(3);
        let text = text(|out| ls(&*storage, false, out));
        assert!(text.contains("it is cut off: 3 of"), "{text}");
    }

    #[test]
    fn what_a_run_goes_on_from_is_shown() {
        let storage = sample();
        let text = text(|out| show(&*storage, false, out));
        for expected in [
            "pipeline    cars, version 1",
            "window=15m",
            "checkpoint  epoch 19",
            "cars[0]",
            "windows/ndjson-out",
            "history     from the beginning",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn machines_get_json() {
        let storage = sample();
        let shown = text(|out| show(&*storage, true, out));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["checkpoint"]["epoch"], 19);
        assert_eq!(shown["checkpoint"]["partitions"][0]["offset"], 200);
        assert_eq!(shown["job"]["pipeline"], "cars");
        let lines = text(|out| ls(&*storage, true, out));
        assert_eq!(lines.lines().count(), storage.objects().len());
    }

    #[test]
    fn verify_ends_with_the_code_of_a_difference() {
        let storage = sample();
        let sound = text(|out| verified(&*storage, false, out));
        assert!(sound.contains("memory: sound; "), "{sound}");
        let name = storage.list("checkpoint/").unwrap()[0].clone();
        storage.objects().get_mut(&name).unwrap()[40] ^= 1;
        for is_json in [false, true] {
            let mut out = Vec::new();
            let error = verified(&*storage, is_json, &mut out).unwrap_err();
            assert_eq!(error.code(), 3);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(&name) && text.contains("damaged"), "{text}");
        }
    }

    #[test]
    fn an_empty_place_is_no_state() {
        let storage = MemoryStorage::default();
        let mut out = Vec::new();
        for outcome in [
            ls(&storage, false, &mut out),
            show(&storage, false, &mut out),
            verified(&storage, true, &mut out),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!(error.code(), 1);
            assert!(error.to_string().contains("there is no state"), "{error}");
        }
        assert!(out.is_empty());
    }
}
