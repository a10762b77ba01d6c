//! A small pipeline for the tests of the command line.

use std::sync::Arc;

use clap::{Arg, ArgGroup, ArgMatches, Command, value_parser};

use super::flags::run_flags;
use super::registry::{Common, PipelineEntry, WindowDefaults};
use crate::aggregate::count;
use crate::decode::{Decoded, Message, Rejection};
use crate::flow::Flow;
use crate::rows::{Column, ColumnType, RowWriter, Tabular};
use crate::runtime::Pipeline;
use crate::sink::{Layout, OutputKind, OutputSpec};
use crate::source::generate::{EventModel, EventRng};
use crate::time::{EventTime, Span};

/// Counts its events.
pub struct Dummy;

impl PipelineEntry for Dummy {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn about(&self) -> &'static str {
        "Counts events"
    }

    fn defaults(&self) -> WindowDefaults {
        WindowDefaults {
            size: Span::minutes(10),
            slide: Some(Span::minutes(5)),
            wait: Span::seconds(2),
        }
    }

    fn run_args(&self, command: Command) -> Command {
        command
    }

    fn model_args(&self, command: Command) -> Command {
        let number = |name: &'static str| {
            Arg::new(name)
                .long(name)
                .value_parser(value_parser!(u64))
                .default_value("3")
        };
        let group = ArgGroup::new("ModelArgs").multiple(true);
        command
            .arg(number("dummies"))
            .arg(number("more"))
            .group(group.args(["dummies", "more"]))
    }

    fn pipeline(&self, _: &ArgMatches, _: &Common) -> Result<Arc<dyn Pipeline>, String> {
        Ok(Arc::new(Count))
    }

    fn model(&self, _: &ArgMatches) -> Result<(Arc<dyn EventModel>, f64), String> {
        Ok((Arc::new(Model), 1.0))
    }
}

struct Count;

impl Pipeline for Count {
    fn name(&self) -> &'static str {
        "dummy"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let events = flow.source(decode);
        let windows = events.window(|_| (), count);
        flow.windows_output("windows", Layout::Flat, &[], &windows, |row| Row {
            end: row.end,
            count: *row.value as i64,
        });
        flow.late_output(windows.late);
    }
}

fn decode(message: Message<'_>) -> Result<Decoded<Row>, Rejection> {
    let text = std::str::from_utf8(message.value).ok();
    Ok(Decoded::Record(
        message.event_time(text, "time")?,
        Row::default(),
    ))
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    end: EventTime,
    count: i64,
}

crate::fixed_layout!(Row { end, count });

impl Tabular for Row {
    fn columns() -> Vec<Column> {
        vec![
            Column::new("window_end", ColumnType::Timestamp),
            Column::new("count", ColumnType::Int),
        ]
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.timestamp(self.end);
        row.int(self.count);
    }
}

struct Model;

impl EventModel for Model {
    fn key(&self, _: u64, _: &mut Vec<u8>) {}

    fn value(&self, _: u64, time: EventTime, _: &mut EventRng, out: &mut Vec<u8>) {
        time.write_rfc3339(out);
    }
}

/// The flags of `run dummy`.
pub fn parse(flags: &[&str]) -> ArgMatches {
    let command = run_flags(Command::new("dummy").args_override_self(true), &Dummy);
    let line = std::iter::once("dummy").chain(flags.iter().copied());
    command.try_get_matches_from(line).expect("valid flags")
}

/// Outputs with these names.
pub fn outputs(names: &[&'static str]) -> Vec<OutputSpec> {
    let output = |name: &&'static str| OutputSpec {
        pipeline: "dummy",
        name,
        columns: Row::columns().into(),
        kind: OutputKind::Log,
        layout: Layout::Flat,
    };
    names.iter().map(output).collect()
}
