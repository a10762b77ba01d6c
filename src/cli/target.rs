//! `--to`: which output goes where.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;

use super::error::{CliError, similar};
use crate::sink::detach::Detachable;
use crate::sink::{OutputSpec, SinkError, SinkFactory, SinkOptions, mask_secrets, parse_sink};
use crate::terminal;

/// Where an output goes.
pub struct Target {
    /// The output.
    pub output: &'static str,
    /// The URI, without secrets.
    pub uri: String,
    /// What the URI means.
    pub factory: Arc<dyn SinkFactory>,
}

/// Output and URI of each `--to`; without any, the main output goes to the console.
pub fn wanted(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Vec<Result<(&'static str, String), CliError>> {
    let given: Vec<_> = matches
        .get_many::<String>("to")
        .into_iter()
        .flatten()
        .collect();
    if given.is_empty() {
        return vec![Ok((main, "console:".to_owned()))];
    }
    given
        .into_iter()
        .map(|text| split(text, outputs, main))
        .collect()
}

/// Splits at the first `=` when the left side is an output.
fn split(
    text: &str,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Result<(&'static str, String), CliError> {
    let Some((name, uri)) = text.split_once('=') else {
        return Ok((main, text.to_owned()));
    };
    if let Some(output) = outputs.iter().find(|output| output.name == name) {
        return Ok((output.name, uri.to_owned()));
    }
    // `windwos=console:` is a slip; `postgres://...?table=t` is a URI.
    if name.contains(':') {
        return Ok((main, text.to_owned()));
    }
    let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
    let meant = similar(name, names.iter().copied());
    let meant = meant
        .map(|meant| format!("; is {meant} meant?"))
        .unwrap_or_default();
    Err(CliError::Usage(format!(
        "--to {}: there is no output {name}; the outputs are {}{meant}",
        mask_secrets(text),
        names.join(", ")
    )))
}

/// Opens all targets.
pub fn open_all(
    matches: &ArgMatches,
    outputs: &[OutputSpec],
    main: &'static str,
) -> Result<Vec<Target>, CliError> {
    let wanted = wanted(matches, outputs, main);
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, _>>()?;
    refuse_shared_places(matches, &wanted)?;
    let options = options(matches)?;
    let (quiet, others) = (matches.get_flag("quiet"), has_others(&wanted));
    let open = |(output, uri): (&'static str, String)| {
        let mut factory = open(&uri, &options)?;
        if others && is_stdout(&uri) {
            factory = Arc::new(Detachable::new(factory, move || tell_closed(quiet)));
        }
        Ok(Target {
            output,
            uri: mask_secrets(&uri),
            factory,
        })
    };
    wanted.into_iter().map(open).collect()
}

fn is_stdout(uri: &str) -> bool {
    matches!(uri, "console:" | "ndjson:-")
}

/// Whether somebody wants results besides whoever reads standard output.
fn has_others(wanted: &[(&'static str, String)]) -> bool {
    let is_other = |(_, uri): &(_, String)| !is_stdout(uri) && uri != "null:";
    wanted.iter().any(is_other)
}

fn tell_closed(quiet: bool) {
    if !quiet {
        terminal::message(format_args!(
            "standard output was closed; the other outputs go on"
        ));
    }
}

/// Refuses outputs that would write over each other.
pub fn refuse_shared_places(
    matches: &ArgMatches,
    wanted: &[(&'static str, String)],
) -> Result<(), CliError> {
    let report = matches.get_one::<String>("report");
    let report = report.and_then(|path| Place::file(path));
    let mut taken: Vec<(String, Place)> = report
        .map(|place| ("--report".to_owned(), place))
        .into_iter()
        .collect();
    for (output, uri) in wanted {
        let Some(place) = Place::of(output, uri) else {
            continue;
        };
        let flag = format!("--to {output}={}", mask_secrets(uri));
        if let Some((earlier, _)) = taken.iter().find(|(_, other)| place.is_shared_with(other)) {
            return Err(CliError::Usage(format!(
                "{flag}: {earlier} writes to the same place; give each its own"
            )));
        }
        taken.push((flag, place));
    }
    Ok(())
}

/// What only one output can write to.
#[derive(Debug)]
enum Place {
    /// A file.
    File(PathBuf),
    /// The files of one output in a folder or bucket; those of others have other names.
    Files(&'static str, PathBuf),
    /// A table of Delta Lake: a folder or a prefix of a bucket, and everything in it.
    Table(PathBuf),
}

impl Place {
    fn of(output: &'static str, uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once(':')?;
        let path = rest.rsplit_once('?').map_or(rest, |(path, _)| path);
        match scheme {
            "ndjson" if rest != "-" => Self::file(rest),
            "csv" | "parquet" => Some(Self::Files(output, folder(path))),
            "delta" => Some(Self::Table(folder(path))),
            _ => None,
        }
    }

    /// Whether what is written to the one gets in the way of what is written to the other.
    fn is_shared_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => one == other,
            (Self::Files(one, place), Self::Files(other, at)) => one == other && place == at,
            (Self::Table(one), Self::Table(other)) => {
                one.starts_with(other) || other.starts_with(one)
            }
            (Self::Table(table), Self::Files(_, place) | Self::File(place))
            | (Self::Files(_, place) | Self::File(place), Self::Table(table)) => {
                place.starts_with(table)
            }
            (Self::File(_), Self::Files(..)) | (Self::Files(..), Self::File(_)) => false,
        }
    }

    /// A pipe or a device can be written to by many.
    fn file(path: &str) -> Option<Self> {
        let path = Path::new(path);
        let is_special = fs::metadata(path).is_ok_and(|found| !found.is_file());
        (!is_special).then(|| Self::File(canonical(path)))
    }
}

/// A folder, or a prefix of a bucket.
fn folder(path: &str) -> PathBuf {
    if path.starts_with("s3://") {
        path.trim_end_matches('/').into()
    } else {
        canonical(Path::new(path))
    }
}

/// The one path of what may not be there yet.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(found) = path.canonicalize() {
        return found;
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => {
            canonical(Path::new(".")).join(name)
        }
        (Some(parent), Some(name)) => canonical(parent).join(name),
        _ => path.to_owned(),
    }
}

/// What a `--to` URI means.
pub fn open(uri: &str, options: &SinkOptions) -> Result<Arc<dyn SinkFactory>, CliError> {
    parse_sink(uri, options).map_err(|error| match error {
        SinkError::Config(text) => CliError::Usage(text),
        error => CliError::failed(error),
    })
}

/// What sinks need besides their URI.
pub fn options(matches: &ArgMatches) -> Result<SinkOptions, CliError> {
    Ok(SinkOptions {
        kafka: super::kafka::properties(matches)?,
        connect_timeout: super::kafka::connect_timeout(matches),
        color: uses_color(),
    })
}

/// Whether standard output takes colours.
fn uses_color() -> bool {
    let is_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !is_off && std::io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{outputs, parse};

    fn targets(flags: &[&str]) -> Result<Vec<(&'static str, String)>, String> {
        let wanted = wanted(&parse(flags), &outputs(&["windows", "late"]), "windows");
        wanted
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn only_an_output_before_the_equals_sign_is_split_off() {
        let is = |flag: &str, output, uri: &str| {
            assert_eq!(
                targets(&["--to", flag]),
                Ok(vec![(output, uri.to_owned())]),
                "{flag}"
            );
        };
        is("null:", "windows", "null:");
        is("late=null:", "late", "null:");
        is(
            "postgres://u@h/db?table=t",
            "windows",
            "postgres://u@h/db?table=t",
        );
        is(
            "late=postgres://u@h/db?table=t",
            "late",
            "postgres://u@h/db?table=t",
        );
        is("ndjson:late=1.ndjson", "windows", "ndjson:late=1.ndjson");
        assert_eq!(targets(&[]), Ok(vec![("windows", "console:".to_owned())]));
    }

    #[test]
    fn a_misspelt_output_is_named() {
        let error = targets(&["--to", "windwos=null:"]).expect_err("no such output");
        assert!(
            error.contains("is windows meant?") && error.contains("windows, late"),
            "{error}"
        );
    }
    #[test]
    fn outputs_do_not_write_over_each_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |path: &str| dir.path().join(path).display().to_string();
        let refused = |flags: &[&str]| {
            let matches = parse(flags);
            let wanted = wanted(&matches, &outputs(&["windows", "late"]), "windows");
            let wanted: Vec<_> = wanted.into_iter().map(|to| to.expect("valid")).collect();
            refuse_shared_places(&matches, &wanted).map_err(|error| error.code()) == Err(2)
        };
        let both =
            |one: &str, other: &str| refused(&["--to", one, "--to", &format!("late={other}")]);
        let file = format!("ndjson:{}", at("a"));
        assert!(both(&file, &file));
        assert!(both(&file, &format!("ndjson:{}", at("./a"))));
        assert!(!both(&file, &format!("ndjson:{}", at("b"))));
        assert!(!both("ndjson:/dev/null", "ndjson:/dev/null"));
        assert!(!both("console:", "console:") && !both("ndjson:-", "ndjson:-"));
        // Their files have the names of the outputs.
        let (csv, more) = (
            format!("csv:{}", at("c")),
            format!("csv:{}/?shards=2", at("c")),
        );
        assert!(!both(&csv, &csv));
        assert!(refused(&["--to", &csv, "--to", &more]));
        // A table has its folder alone, whatever the output.
        let table = format!("delta:{}", at("c"));
        assert!(both(&table, &table) && both(&table, &csv) && both(&csv, &table));
        assert!(both(&table, &format!("ndjson:{}", at("c/in.ndjson"))));
        assert!(both(&format!("delta:{}", at("c/in")), &table));
        assert!(!both(
            &format!("csv:{}", at("d")),
            &format!("delta:{}", at("d/in"))
        ));
        assert!(!both(&table, &format!("delta:{}", at("t"))));
        let bucket = "delta:s3://b/c";
        assert!(both(bucket, "delta:s3://b/c/?codec=zstd") && both(bucket, "csv:s3://b/c"));
        assert!(!both(bucket, "delta:s3://b/d"));
        assert!(refused(&["--to", &file, "--report", &at("a")]));
        std::os::unix::fs::symlink(dir.path(), at("link")).expect("a link");
        assert!(both(&file, &format!("ndjson:{}", at("link/a"))));
    }

    #[test]
    fn standard_output_alone_ends_the_run() {
        let others = |uris: &[&str]| {
            let wanted: Vec<_> = uris
                .iter()
                .map(|uri| ("windows", (*uri).to_owned()))
                .collect();
            has_others(&wanted)
        };
        assert!(!others(&["console:"]) && !others(&["ndjson:-", "null:"]));
        assert!(others(&["ndjson:-", "ndjson:x"]));
    }
}
