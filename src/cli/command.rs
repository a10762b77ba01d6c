//! The tree of commands.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, Command, value_parser};

use super::dims;
use super::flags;
use super::registry::PipelineEntry;
use super::value;

/// The pipelines of the binary.
pub type Pipelines<'a> = &'a [&'a dyn PipelineEntry];

/// The whole command line.
pub fn root(pipelines: Pipelines<'_>) -> Command {
    let command = Command::new("highwater")
        .about("Event-time stream processing: windows over what happened when it happened")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .arg(help())
        .after_help(examples(&[
            ("cars, 24 windows of 15 minutes, with nothing installed", "highwater run cars"),
            ("a million events as files, and a run over them", "highwater generate cars --events 1_000_000 --to file:cars/"),
            ("", "highwater dims cars --to dims"),
            ("", "highwater run cars --from 'file:cars/*.ndjson' --dims dir:dims --to ndjson:windows.ndjson"),
        ]))
        .subcommand(run(pipelines))
        .subcommand(generate(pipelines));
    let command = match dims_command(pipelines) {
        Some(dims) => command.subcommand(dims),
        None => command,
    };
    command
        .subcommand(view())
        .subcommand(check(pipelines))
        .subcommand(state())
        .subcommand(replay())
        .subcommand(completions())
}

/// `--help`, in one compact form for all commands.
fn help() -> Arg {
    Arg::new("help")
        .short('h')
        .long("help")
        .global(true)
        .action(ArgAction::HelpShort)
        .display_order(999)
        .help("Print help")
}

/// The examples at the end of a help text; an empty title continues the one before.
fn examples(lines: &[(&str, &str)]) -> String {
    let example = |(title, line): &(&str, &str)| {
        let title = if title.is_empty() {
            String::new()
        } else {
            format!("\n  # {title}")
        };
        format!("{title}\n  {line}")
    };
    format!("Examples:{}", lines.iter().map(example).collect::<String>())
}

/// The command of a pipeline, with `flags` added to it.
fn entry_command(
    entry: &dyn PipelineEntry,
    flags: fn(Command, &dyn PipelineEntry) -> Command,
    after: String,
) -> Command {
    let command = Command::new(entry.name()).args_override_self(true);
    // What adds flags may set an `about` of its own.
    flags(command, entry)
        .about(entry.about())
        .long_about(None)
        .after_help(after)
}

fn run(pipelines: Pipelines<'_>) -> Command {
    let command = Command::new("run")
        .about("Run a pipeline")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("PIPELINE")
        .subcommand_help_heading("Pipelines")
        .after_help(examples(&[
            ("cars, 24 windows of 15 minutes, with nothing installed", "highwater run cars"),
            ("files, with the alerts and the windows in files", "highwater run factory --from 'file:factory/*.ndjson' --to alerts=ndjson:alerts.ndjson --to ndjson:windows.ndjson"),
            ("all flags of a pipeline", "highwater run factory --help"),
        ]));
    command.subcommands(
        pipelines
            .iter()
            .map(|entry| entry_command(*entry, flags::run_flags, run_examples(*entry))),
    )
}

fn run_examples(entry: &dyn PipelineEntry) -> String {
    let name = entry.name();
    let dims = if entry.dims_command().is_some() {
        " --dims dir:dims"
    } else {
        ""
    };
    let lines = [
        (
            "with generated input, on the terminal",
            format!("highwater run {name}"),
        ),
        (
            "files, as fast as possible, with a summary for machines",
            format!(
                "highwater run {name} --from 'file:{name}/*.ndjson'{dims} --to ndjson:out.ndjson --report report.json"
            ),
        ),
        (
            "four processes of two workers each, started and supervised here",
            format!(
                "highwater run {name} -n 4 -w 2 --from 'file:{name}/*.ndjson'{dims} --to ndjson:out.ndjson --state state"
            ),
        ),
        (
            "the second of two processes on two hosts",
            format!(
                "highwater run {name} -n 2 -p 1 --hostfile hosts --secret-file secret --from kafka://localhost:9092/{name}{dims} --state s3://bucket/{name}"
            ),
        ),
        (
            "from a topic into another, without end",
            format!(
                "highwater run {name} -w 4 --from kafka://localhost:9092/{name}{dims} --to kafka://localhost:9092/{name}-out"
            ),
        ),
    ];
    examples(
        &lines
            .each_ref()
            .map(|(title, line)| (*title, line.as_str())),
    )
}

fn generate(pipelines: Pipelines<'_>) -> Command {
    let command = Command::new("generate")
        .about("Make the input of a pipeline: into a file, a folder of partitions, Kafka, or standard output")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("PIPELINE")
        .subcommand_help_heading("Pipelines")
        .after_help(generate_examples("cars"));
    command.subcommands(pipelines.iter().map(|entry| {
        entry_command(
            *entry,
            flags::generate_flags,
            generate_examples(entry.name()),
        )
    }))
}

fn generate_examples(name: &str) -> String {
    let lines = [
        (
            "a look at the events",
            format!("highwater generate {name} --events 5"),
        ),
        (
            "a folder of four partitions, a little out of order",
            format!("highwater generate {name} --events 1_000_000 --disorder 5s --to file:{name}/"),
        ),
        (
            "into a topic, at the wall clock",
            format!("highwater generate {name} --live --to kafka://localhost:9092/{name}"),
        ),
    ];
    examples(
        &lines
            .each_ref()
            .map(|(title, line)| (*title, line.as_str())),
    )
}

fn dims_command(pipelines: Pipelines<'_>) -> Option<Command> {
    let commands: Vec<_> = pipelines
        .iter()
        .filter_map(|entry| Some(dims::flags(entry.dims_command()?.name(entry.name()))))
        .collect();
    if commands.is_empty() {
        return None;
    }
    let command = Command::new("dims")
        .about("Make the dimension tables of a pipeline")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand_value_name("PIPELINE")
        .subcommand_help_heading("Pipelines")
        .subcommands(commands)
        .after_help(examples(&[
            (
                "the tables, and a run that joins with them",
                "highwater dims cars --to dims",
            ),
            (
                "",
                "highwater run cars --from 'file:cars/*.ndjson' --dims dir:dims",
            ),
            (
                "the same in a database, or as compacted topics",
                "highwater dims cars --to postgres://postgres@localhost/postgres?schema=reference",
            ),
            (
                "",
                "highwater dims cars --to kafka://localhost:9092/reference",
            ),
            (
                "what is in a folder, into a bucket",
                "highwater dims cars --from dir:dims --to s3://bucket/dims",
            ),
        ]));
    Some(command)
}

fn view() -> Command {
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let command = Command::new("view")
        .about("Look at a topic or at files as a table")
        .arg(Arg::new("uri").value_name("URI").required(true).help(
            "A file (.ndjson, .csv, .parquet; also .gz, .zst), a folder of them, a glob, - (standard input), or kafka://HOST:PORT/TOPIC",
        ))
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("N")
                .value_parser(value::count)
                .help("How many rows [default: 20; with --follow: all]; 0 = all"),
        )
        .arg(switch("follow", "Wait for more"))
        .arg(
            Arg::new("start")
                .long("start")
                .value_name("WHERE")
                .value_parser(value::start)
                .help("Kafka: earliest, latest or a time [default: earliest]"),
        )
        .arg(switch("late", "Rows of an output of late records: how late they were comes first"))
        .arg(switch("dead-letters", "Rows of an output of dead letters, their payload decoded"))
        .arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .value_parser(PossibleValuesParser::new(["table", "json"]))
                .default_value("table")
                .help("How rows are shown"),
        )
        .after_help(examples(&[
            ("the first rows of a result", "highwater view out.ndjson"),
            ("what comes into a topic", "highwater view kafka://localhost:9092/cars --follow"),
            ("why records were rejected", "highwater view dead.ndjson --dead-letters"),
            ("messages whose schema a registry has", "highwater view kafka://localhost:9092/sensor_events --value-format avro --schema-registry http://localhost:8085/apis/ccompat/v7"),
        ]));
    flags::schema_flags(flags::kafka_flags(command))
}

fn check(pipelines: Pipelines<'_>) -> Command {
    let command = Command::new("check")
        .about("Validate a configuration and reach every component, one line each; nothing is run or made")
        .disable_help_subcommand(true)
        .subcommand_value_name("PIPELINE")
        .subcommand_help_heading("Pipelines")
        .after_help(examples(&[
            ("all pipelines, as they are by default", "highwater check"),
            ("what a run would need", "highwater check factory --from kafka://localhost:9092/factory --to parquet:out"),
        ]));
    command.subcommands(
        pipelines
            .iter()
            .map(|entry| entry_command(*entry, flags::run_flags, check_examples(*entry))),
    )
}

fn check_examples(entry: &dyn PipelineEntry) -> String {
    let name = entry.name();
    let dims = if entry.dims_command().is_some() {
        " --dims dir:dims"
    } else {
        ""
    };
    let lines = [
        (
            "what a run would need",
            format!(
                "highwater check {name} --from kafka://localhost:9092/{name}{dims} --to parquet:out"
            ),
        ),
        (
            "a configuration file",
            format!("highwater check {name} --config {name}.toml"),
        ),
    ];
    examples(
        &lines
            .each_ref()
            .map(|(title, line)| (*title, line.as_str())),
    )
}

fn state() -> Command {
    let uri = || {
        Arg::new("uri")
            .value_name("URI")
            .required(true)
            .help("A folder, or s3://BUCKET/PREFIX")
    };
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("For machines")
    };
    let command = |name: &'static str, about: &'static str, title: &str, line: &str| {
        Command::new(name)
            .about(about)
            .arg(uri())
            .arg(json())
            .after_help(examples(&[(title, line)]))
    };
    Command::new("state")
        .about("Look at the state of a job: epochs, checkpoints, offsets, ledger")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(command(
            "ls",
            "List the objects of a state: what was logged and checkpointed, and by which run",
            "the newest entries of the log",
            "highwater state ls state | tail",
        ))
        .subcommand(command(
            "show",
            "Show what the next run would go on from",
            "the offsets, for a script",
            "highwater state show s3://bucket/cars --json | jq .checkpoint.partitions",
        ))
        .subcommand(command(
            "verify",
            "Read every object and check that nothing is damaged, missing or off; exits with 3 otherwise",
            "before a backup is trusted",
            "highwater state verify /backup/state",
        ))
        .after_help(examples(&[
            ("what the next run would go on from", "highwater state show state"),
            ("what was logged, object by object", "highwater state ls state"),
            ("whether all of it is sound", "highwater state verify s3://bucket/cars"),
        ]))
}

fn replay() -> Command {
    let option = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let command = Command::new("replay")
        .about("Run the recorded epochs of a job again and compare with what came of them; exits with 3 on a difference")
        .arg(Arg::new("uri").value_name("STATE").required(true).help(
            "A folder, or s3://BUCKET/PREFIX; it is only read, and the job may go on meanwhile",
        ))
        .arg(option("from", "URI", "Where the job's input is now [default: where it was, for files and the generator]"))
        .arg(
            option("from-epoch", "K", "Begin at the last start before this epoch [default: as early as possible]")
                .value_parser(value::count),
        )
        .arg(
            option("to-epoch", "K", "End with the first checkpoint from this epoch on [default: with the newest]")
                .value_parser(value::count),
        )
        .arg(
            option("workers", "N", "Worker threads")
                .short('w')
                .value_parser(value::count_in::<u32>(1..=1024))
                .default_value("1"),
        )
        .arg(switch("json", "For machines"))
        .arg(switch("quiet", "Show the result and errors only").short('q'))
        .after_help(examples(&[
            ("a job that reads files", "highwater replay state/cars"),
            ("a job that reads a topic, on four threads", "highwater replay s3://bucket/cars --from kafka://localhost:9092/sensors-sample -w 4"),
            ("what came of the epochs around one", "highwater replay state/cars --from-epoch 1200 --to-epoch 1300"),
        ]));
    flags::registry_flags(flags::kafka_flags(command))
}

fn completions() -> Command {
    Command::new("completions")
        .about("Print the completions for a shell")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(value_parser!(clap_complete::Shell)),
        )
        .after_help(examples(&[
            (
                "bash",
                "highwater completions bash > ~/.local/share/bash-completion/completions/highwater",
            ),
            ("zsh", "highwater completions zsh > ~/.zfunc/_highwater"),
            (
                "fish",
                "highwater completions fish > ~/.config/fish/completions/highwater.fish",
            ),
        ]))
}
