//! The flags of `run`, `check` and `generate`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgGroup, Command};

use super::http::HttpAddress;
use super::registry::{PipelineEntry, WindowDefaults};
use super::schema::ValueFormat;
use super::value;
use crate::flow::Unmatched;
use crate::join::Policy;
use crate::state::retention::History;
use crate::window::Late;

/// Flags that only mean something with the embedded generator.
pub const GENERATOR_ONLY: [&str; 11] = [
    "speed",
    "events",
    "duration",
    "rate",
    "disorder",
    "late-fraction",
    "duplicates",
    "garbage",
    "partitions",
    "seed",
    "live",
];

/// Flags that only mean something with Kafka as the input.
pub const KAFKA_INPUT_ONLY: [&str; 1] = ["group"];

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// `--time-zone`
fn time_zone(help: &'static str) -> Arg {
    option("time-zone", "NAME", help).value_parser(value::zone)
}

fn switch(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// All flags of `run` and `check` for one pipeline.
pub fn run_flags(command: Command, entry: &dyn PipelineEntry) -> Command {
    let command = entry.run_args(command.next_help_heading("Pipeline"));
    let command = input_flags(command.next_help_heading("Input"));
    let command = generator_flags(command.next_help_heading("Embedded generator"));
    let command = entry.model_args(command).arg(
        option(
            "speed",
            "N|max",
            "Event time against the wall clock [default: 1800]",
        )
        .value_parser(value::speed),
    );
    let command = output_flags(command.next_help_heading("Output"));
    let command = dims_flags(command.next_help_heading("Dimensions"));
    let command = window_flags(command.next_help_heading("Windows"), entry.defaults());
    let command = engine_flags(command.next_help_heading("Engine"));
    let command = process_flags(command.next_help_heading("Processes"));
    report_flags(command.next_help_heading("What is shown"))
}

/// All flags of `generate` for one pipeline.
pub fn generate_flags(command: Command, entry: &dyn PipelineEntry) -> Command {
    let command = command.arg(
        option("to", "URI", "file:PATH (also .gz, .zst), file:DIR/ (one file per partition), kafka://HOST:PORT/TOPIC, or - for standard output")
            .default_value("-"),
    );
    let start = option(
        "start",
        "TIME",
        "The time of the first event [default: 2024-01-01T00:00:00Z; with --live: now]",
    )
    .value_parser(value::time);
    let zone = time_zone(
        "In which zone times without an offset are written, where the pipeline has such [default: UTC]",
    );
    let command = kafka_flags(generator_flags(command).arg(start).arg(zone));
    let command = schema_flags(command.next_help_heading("Schemas"));
    let quiet = switch("quiet", "Show errors only").short('q');
    entry
        .model_args(command.next_help_heading("Model"))
        .next_help_heading(None::<&str>)
        .arg(quiet)
}

fn input_flags(command: Command) -> Command {
    let from = option("from", "URI", "generate: | file:PATH or file:'GLOB' | - (standard input) | kafka://HOST:PORT[,HOST:PORT]/TOPIC")
        .default_value("generate:");
    let start = option("start", "WHERE", "Kafka: earliest, latest or a time [default: earliest]; generator: the time of the first event")
        .value_parser(value::start);
    let command = command
        .arg(from)
        .arg(start)
        .arg(switch(
            "until-end",
            "End at the end of what is there now, and leave the last windows open",
        ))
        .arg(switch(
            "drain",
            "End at the end of what is there now, and close all windows (default for files)",
        ))
        .arg(switch(
            "follow",
            "Never end: wait for more (default for Kafka)",
        ))
        .group(ArgGroup::new("end").args(["until-end", "drain", "follow"]))
        .arg(option(
            "group",
            "NAME",
            "Kafka: the consumer group to which positions are told [default: highwater-NAME]",
        ));
    schema_flags(kafka_flags(command))
}

/// What the values of messages are.
pub fn schema_flags(command: Command) -> Command {
    let formats =
        PossibleValuesParser::new(["json", "avro", "json-schema"]).map(|text| match &*text {
            "avro" => ValueFormat::Avro,
            "json-schema" => ValueFormat::JsonSchema,
            _ => ValueFormat::Json,
        });
    let format = option(
        "value-format",
        "FORMAT",
        "Kafka: what messages are; with avro and json-schema, in Confluent's frame [default: json]",
    );
    registry_flags(command.arg(format.value_parser(formats)))
}

/// Where a schema registry is.
pub fn registry_flags(command: Command) -> Command {
    command
        .arg(option(
            "schema-registry",
            "URL",
            "Who has the schemas: http://HOST:PORT/PATH, as http://localhost:8085/apis/ccompat/v7",
        ))
        .arg(option(
            "schema-registry-auth",
            "@FILE|$NAME",
            "The file or environment variable with its USER:PASSWORD [default: $HIGHWATER_SCHEMA_REGISTRY_AUTH]",
        ))
}

/// What all commands that may talk to Kafka have.
pub fn kafka_flags(command: Command) -> Command {
    let kafka = option("kafka", "KEY=VALUE", "A property of the Kafka client; KEY=@FILE reads the value from a file, KEY=$NAME from the environment; repeatable")
        .action(ArgAction::Append);
    let timeout = option(
        "connect-timeout",
        "DURATION",
        "How long to wait for a server that does not answer",
    )
    .value_parser(value::positive_duration)
    .default_value("10s");
    command.arg(kafka).arg(timeout)
}

fn generator_flags(command: Command) -> Command {
    let chance = |name, help| {
        option(name, "P", help)
            .value_parser(value::probability)
            .default_value("0")
    };
    command
        .arg(option("events", "N", "How many events (1_000_000)").value_parser(value::count))
        .arg(option("duration", "DURATION", "How much event time").value_parser(value::duration))
        .arg(
            option(
                "rate",
                "N",
                "Events per second of event time [default: the pipeline's]",
            )
            .value_parser(value::rate),
        )
        .arg(
            option(
                "disorder",
                "DURATION",
                "Events are stamped up to this much before their turn",
            )
            .value_parser(value::duration)
            .default_value("0s"),
        )
        .arg(chance(
            "late-fraction",
            "How many events are later than --disorder",
        ))
        .arg(chance("duplicates", "How many events are written twice"))
        .arg(chance("garbage", "How many lines are no events at all"))
        .arg(
            option("partitions", "N", "How many partitions")
                .value_parser(value::count_in::<u32>(1..=100_000))
                .default_value("4"),
        )
        .arg(
            option("seed", "N", "Same seed, same bytes")
                .value_parser(value::count)
                .default_value("1"),
        )
        .arg(switch(
            "live",
            "At the wall clock, from now on; without --events or --duration until Ctrl-C",
        ))
}

fn output_flags(command: Command) -> Command {
    let to = option("to", "[OUTPUT=]URI", "console: | ndjson:PATH (- = standard output) | csv:DIR | parquet:DIR | kafka://HOST:PORT/TOPIC | postgres://USER@HOST/DB?table=T | null:; repeatable")
        .action(ArgAction::Append);
    command.arg(to)
}

fn dims_flags(command: Command) -> Command {
    let policies =
        PossibleValuesParser::new(["as-of", "latest", "static"]).map(|text| match &*text {
            "latest" => Policy::Latest,
            "static" => Policy::Static,
            _ => Policy::AsOf,
        });
    let unmatched =
        PossibleValuesParser::new(["keep", "drop", "dead-letter"]).map(|text| match &*text {
            "drop" => Unmatched::Drop,
            "dead-letter" => Unmatched::DeadLetter,
            _ => Unmatched::Keep,
        });
    command
        .arg(option("dims", "URI", "The dimension tables: dir:PATH | s3://BUCKET/PREFIX | postgres://USER@HOST/DB[?schema=S&prefix=P] | kafka://HOST:PORT/TOPIC-PREFIX [default with the embedded generator: its own]"))
        .arg(option("dims-refresh", "DURATION", "Read them again this often [default: never]").value_parser(value::positive_duration))
        .arg(option("dims-policy", "POLICY", "Which version of a row a record sees").value_parser(policies).default_value("as-of"))
        .arg(option("dims-wait", "DURATION", "Records wait this long before they are joined, so that changes of the tables that come later still count for them; needs --dims-refresh").value_parser(value::duration).default_value("0s"))
        .arg(option("unmatched", "FATE", "What happens to records without a row").value_parser(unmatched).default_value("keep"))
}

fn window_flags(command: Command, defaults: WindowDefaults) -> Command {
    let slide = defaults
        .slide
        .map_or_else(|| "the size".to_owned(), |slide| slide.to_string());
    let late = PossibleValuesParser::new(["divert", "drop"]).map(|text| {
        if text == "drop" {
            Late::Drop
        } else {
            Late::Divert
        }
    });
    let span = |name, help: String| {
        Arg::new(name)
            .long(name)
            .value_name("DURATION")
            .help(help)
            .value_parser(value::duration)
    };
    let size = defaults.size;
    command
        .arg(
            span("window", format!("The size of windows [default: {size}]"))
                .value_parser(value::positive_duration),
        )
        .arg(
            span(
                "slide",
                format!("A window begins this often [default: {slide}]"),
            )
            .value_parser(value::positive_duration),
        )
        .arg(span("offset", "Shifts all windows".to_owned()).default_value("0s"))
        .arg(span(
            "wait",
            format!(
                "How far the watermark stays behind the newest record [default: {}]",
                defaults.wait
            ),
        ))
        .arg(
            span(
                "keep",
                "How long after its end a window takes late records, as revisions".to_owned(),
            )
            .default_value("0s"),
        )
        .arg(
            span(
                "idle-after",
                "A partition so long without records no longer holds windows back".to_owned(),
            )
            .value_parser(value::positive_duration)
            .default_value("30s"),
        )
        .arg(switch(
            "close-on-idle",
            "While all partitions are idle the watermark follows the wall clock",
        ))
        .arg(time_zone(
            "Where clocks show the times that come without an offset, such as America/New_York [default: UTC]",
        ))
        .arg(
            span(
                "max-ahead",
                "Records further ahead of the clock are dead letters".to_owned(),
            )
            .default_value("5m"),
        )
        .arg(
            option(
                "late",
                "FATE",
                "What happens to records that are late for all their windows",
            )
            .value_parser(late)
            .default_value("divert"),
        )
        .arg(
            option("semantics", "PROFILE", "Whose windowing rules")
                .value_parser(value::semantics)
                .default_value("native"),
        )
}

/// Several processes that are one run.
fn process_flags(command: Command) -> Command {
    command
        .arg(
            option(
                "processes",
                "N",
                "Processes, each with -w workers; without -p they are started and supervised here",
            )
            .short('n')
            .value_parser(value::count_in::<u32>(1..=1024))
            .default_value("1"),
        )
        .arg(
            option(
                "process",
                "I",
                "Which of them this is, from 0: it is started by hand, as all others are",
            )
            .short('p')
            .value_parser(value::count_in::<u32>(0..=1023)),
        )
        .arg(option(
            "hostfile",
            "FILE",
            "With -p: where each process listens, a line HOST:PORT for each",
        ))
        .arg(option(
            "secret-file",
            "FILE",
            "With -p: what all processes know and nobody else [default: $HIGHWATER_SECRET]",
        ))
        .arg(option(
            "bind",
            "HOST:PORT",
            "With -p: where to listen [default: this process's line of the hostfile]",
        ))
        .arg(
            option(
                "heartbeat-timeout",
                "DURATION",
                "A process that says nothing for so long counts as gone",
            )
            .value_parser(value::positive_duration)
            .default_value("10s"),
        )
        .arg(
            option(
                "restarts",
                "N",
                "With --state: how often all processes start again, until they were well for a minute",
            )
            .value_parser(value::count_in::<u32>(0..=1_000_000))
            .default_value("10"),
        )
}

fn engine_flags(command: Command) -> Command {
    command
        .arg(
            option("workers", "N", "Worker threads")
                .short('w')
                .value_parser(value::count_in::<u32>(1..=1024))
                .default_value("1"),
        )
        .arg(
            option("epoch", "DURATION", "How often results are committed")
                .value_parser(value::positive_duration)
                .default_value("250ms"),
        )
        .arg(
            option(
                "checkpoint",
                "DURATION",
                "How often files appear [default: 10s; 60s when an output is a folder of files]",
            )
            .value_parser(value::positive_duration),
        )
        .arg(option(
            "state",
            "URI",
            "Where the job is kept, to go on from after any end: a folder, or s3://BUCKET/PREFIX [default: nowhere]",
        ))
        .arg(
            switch(
                "fresh",
                "Start a new job, whatever the state holds",
            )
            .requires("state"),
        )
        .arg(
            switch(
                "replace-output",
                "With --fresh: remove what another job has left in the outputs",
            )
            .requires("fresh"),
        )
        .arg(
            option(
                "history",
                "all|DURATION|none",
                "For how long recorded epochs are kept for a replay",
            )
            .value_parser(History::parse)
            .default_value("7d"),
        )
        .arg(
            option(
                "delivery",
                "GUARANTEE",
                "exactly-once or at-least-once [default: exactly-once with --state]",
            )
            .value_parser(["exactly-once", "at-least-once"]),
        )
        .arg(option(
            "name",
            "NAME",
            "The name of this job [default: the pipeline's]",
        ))
        .arg(option(
            "config",
            "FILE.toml",
            "Every flag can stand there, under its long name; flags win",
        ))
}

fn report_flags(command: Command) -> Command {
    command
        .arg(
            option(
                "http",
                "HOST:PORT",
                "Show metrics and health to programs: /metrics, /healthz, /readyz; :PORT is 127.0.0.1:PORT, port 0 any; process I of -n N takes PORT+I",
            )
            .value_parser(HttpAddress::parse),
        )
        .arg(option(
            "report",
            "FILE.json",
            "Write the summary for machines",
        ))
        .arg(switch("quiet", "Show errors only").short('q'))
        .arg(
            switch("verbose", "Show more")
                .short('v')
                .conflicts_with("quiet"),
        )
}
