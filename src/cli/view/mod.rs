//! `highwater view`: a topic or files as a table.
//!
//! | module | what it holds |
//! |---|---|
//! | `read` | rows out of topics and files |
//! | `row` | a row: names and values in order, and its views |
//! | `table` | rows as a table with columns of growing width |

use std::io::{self, Write};
use std::ops::ControlFlow;

use clap::ArgMatches;

use self::read::{Seen, Target};
use self::row::Row;
use self::table::Table;
use super::error::{CliError, DONE, Outcome};

mod read;
mod row;
mod table;

/// How many rows are shown when nothing says how many.
const SHOWN: u64 = 20;

/// Shows rows.
pub fn command(matches: &ArgMatches) -> Outcome {
    let uri = matches.get_one::<String>("uri").map_or("", String::as_str);
    let target = Target::parse(uri)?;
    let follow = matches.get_flag("follow");
    let default = if follow { 0 } else { SHOWN };
    let limit = matches.get_one::<u64>("limit").copied().unwrap_or(default);
    let mut view = View {
        shape: Shape::new(matches),
        out: Out::new(matches, io::stdout().lock()),
        left: if limit == 0 { u64::MAX } else { limit },
    };
    read::rows(&target, follow, matches, &mut |seen| view.take(seen))?;
    view.out.flush()?;
    Ok(DONE)
}

/// What is made of a row before it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Plain,
    Late,
    DeadLetters,
}

impl Shape {
    fn new(matches: &ArgMatches) -> Self {
        match (matches.get_flag("late"), matches.get_flag("dead-letters")) {
            (_, true) => Self::DeadLetters,
            (true, false) => Self::Late,
            (false, false) => Self::Plain,
        }
    }
}

struct View<W: Write> {
    shape: Shape,
    out: Out<W>,
    /// How many rows may still be shown.
    left: u64,
}

impl<W: Write> View<W> {
    fn take(&mut self, seen: Seen) -> Result<ControlFlow<()>, CliError> {
        let Seen::Row(row) = seen else {
            self.out.flush()?;
            return Ok(ControlFlow::Continue(()));
        };
        match self.shape {
            Shape::Plain => self.out.row(row)?,
            Shape::Late => self.out.row(row.late())?,
            Shape::DeadLetters => self.out.letter(row.dead_letter())?,
        }
        self.left -= 1;
        Ok(if self.left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }
}

/// How rows are written.
enum Out<W: Write> {
    Table(Table, W),
    Json(W),
}

impl<W: Write> Out<W> {
    fn new(matches: &ArgMatches, out: W) -> Self {
        match matches.get_one::<String>("format").map(String::as_str) {
            Some("json") => Self::Json(out),
            _ => Self::Table(Table::default(), out),
        }
    }

    fn row(&mut self, row: Row) -> io::Result<()> {
        match self {
            Self::Table(table, out) => table.push(row.flat(), out),
            Self::Json(out) => writeln!(out, "{}", row.json()),
        }
    }

    /// A dead letter takes a line for what is wrong with it and one for its payload.
    fn letter(&mut self, row: Row) -> io::Result<()> {
        match self {
            Self::Table(_, out) => writeln!(out, "{}", row.letter_text()),
            Self::Json(out) => writeln!(out, "{}", row.json()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Table(table, out) => {
                table.flush(out)?;
                out.flush()
            }
            Self::Json(out) => out.flush(),
        }
    }
}
