//! A job on real servers: its topic, which is fed in pieces; its sinks; and what they must hold in
//! the end.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::dice::{Dice, base_seed};
use crate::outputs::{Output, Sink, Site};
use crate::process::Process;
use crate::support::cars::Tables;
use crate::support::naive::{Ledger, Shape, time_text};
use crate::support::place::{Done, Place};
use crate::support::services::{
    Server, Victim, given, kafka, kafka_alone, kafka3_alone, postgres, postgres_alone, s3,
    s3_alone, unique,
};
use crate::support::{cars, factory, fleet, turnstile};

/// The run that is disturbed, and the one that is not.
pub const KEPT: &str = "kept";
pub const WHOLE: &str = "whole";
/// Partitions of the topic.
const PARTITIONS: usize = 3;
/// Minutes of event time that a piece of the input has.
const PIECE_MS: i64 = 120_000;
/// 2024-01-01.
const START_MS: i64 = 1_704_067_200_000;

/// Which pipeline runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipeline {
    Cars,
    Factory,
    Fleet,
    Turnstile,
}

impl Pipeline {
    const fn name(self) -> &'static str {
        match self {
            Self::Cars => "cars",
            Self::Factory => "factory",
            Self::Fleet => "fleet",
            Self::Turnstile => "turnstile",
        }
    }

    const fn shape(self) -> Shape {
        match self {
            Self::Cars => Shape::tumbling(60_000, 10_000),
            Self::Factory => Shape::tumbling(20_000, 10_000),
            Self::Fleet => Shape {
                slide: 20_000,
                ..Shape::tumbling(60_000, 10_000)
            },
            Self::Turnstile => Shape::tumbling(turnstile::SIZE, 10_000),
        }
    }

    /// What its generator is told so that every output has something to hold.
    const fn flags(self) -> &'static str {
        match self {
            Self::Factory => "--p-invalid 0.02",
            Self::Turnstile => "--turnstiles 40",
            Self::Cars | Self::Fleet => "",
        }
    }
}

/// How servers are used: together with other tests, or alone, to be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victims {
    Nobody,
    Kafka,
    /// The cluster of three brokers, in place of the single one.
    Kafka3,
    Postgres,
    S3,
}

/// What keeps other tests from killing what this one needs.
enum Held {
    Shared(Server),
    Alone(Victim),
}

impl Held {
    fn address(&self) -> String {
        match self {
            Self::Shared(server) => server.address().to_owned(),
            Self::Alone(victim) => victim.address().to_owned(),
        }
    }
}

/// A job and what is known of it.
pub struct Bed {
    pub scenario: &'static str,
    pub dice: Dice,
    pub place: Place,
    pub site: Site,
    pub pipeline: Pipeline,
    pub outputs: Vec<Output>,
    /// More flags of every run of the disturbed job.
    pub flags: String,
    /// How often it commits and writes its state.
    pub pace: &'static str,
    pub state: String,
    kafka: Held,
    postgres: Held,
    s3: Held,
    pub shape: Shape,
    /// Whether rows may come again (`--delivery at-least-once`).
    pub repeats: bool,
    /// Whether some events come too late.
    has_late: bool,
    /// What was fed, per partition.
    lines: Vec<Vec<Vec<u8>>>,
    pieces: u64,
    runs: u32,
    pub kills: u32,
    pub servers_killed: u32,
    pub cuts: u32,
    pub hostfiles: u32,
    /// The network namespace in which runs start.
    pub namespace: Option<String>,
    pub recoveries: Vec<Duration>,
    started: Instant,
}

impl Bed {
    /// A job of `pipeline` with these outputs, of which `victim` may be killed.
    pub fn new(
        scenario: &'static str,
        pipeline: Pipeline,
        victim: Victims,
        outputs: &[Output],
    ) -> Self {
        Self::with(scenario, pipeline, victim, outputs, true)
    }

    /// One in whose input nothing is late.
    pub fn clean(scenario: &'static str, pipeline: Pipeline, outputs: &[Output]) -> Self {
        Self::with(scenario, pipeline, Victims::Nobody, outputs, false)
    }

    fn with(
        scenario: &'static str,
        pipeline: Pipeline,
        victim: Victims,
        outputs: &[Output],
        has_late: bool,
    ) -> Self {
        // Always in this order, or two tests could wait for each other.
        let kafka = match victim {
            Victims::Kafka => Held::Alone(kafka_alone()),
            Victims::Kafka3 => Held::Alone(kafka3_alone()),
            _ => Held::Shared(kafka()),
        };
        let postgres = if victim == Victims::Postgres {
            Held::Alone(postgres_alone())
        } else {
            Held::Shared(postgres())
        };
        let s3 = if victim == Victims::S3 {
            Held::Alone(s3_alone())
        } else {
            Held::Shared(s3())
        };
        let site = Site {
            kafka: kafka.address(),
            postgres: postgres.address(),
            // Names of tables are short.
            name: unique("chaos"),
        };
        let mut dice = Dice::of(scenario, base_seed());
        let place = Place::new();
        std::fs::create_dir(place.path("runs")).expect("a folder");
        if pipeline == Pipeline::Cars {
            place.ok("dims cars --to dims");
        }
        let bucket = format!(
            "s3://{}/{}/state",
            given("HIGHWATER_TEST_S3_BUCKET"),
            site.name
        );
        let state = if dice.within(0..2) == 0 {
            "state".to_owned()
        } else {
            bucket
        };
        let mut bed = Self {
            scenario,
            dice,
            place,
            site,
            pipeline,
            outputs: outputs.to_vec(),
            flags: String::new(),
            pace: "--epoch 40ms --checkpoint 300ms",
            state,
            kafka,
            postgres,
            s3,
            shape: pipeline.shape(),
            repeats: false,
            has_late,
            lines: vec![Vec::new(); PARTITIONS],
            pieces: 0,
            runs: 0,
            kills: 0,
            servers_killed: 0,
            cuts: 0,
            hostfiles: 0,
            namespace: None,
            recoveries: Vec::new(),
            started: Instant::now(),
        };
        // A partition that is empty at the start would count as idle.
        bed.feed(3000);
        bed
    }

    /// The server that this test alone uses.
    pub fn victim(&self) -> &Victim {
        let all = [&self.kafka, &self.postgres, &self.s3];
        let alone = all.into_iter().find_map(|held| match held {
            Held::Alone(victim) => Some(victim),
            Held::Shared(_) => None,
        });
        alone.expect("the scenario has a victim")
    }

    /// The address of the object store.
    pub fn object_store(&self) -> String {
        self.s3.address()
    }

    pub fn topic(&self) -> String {
        format!("kafka://{}/{}", self.site.kafka, self.site.name)
    }

    /// Appends a piece of so many events to the topic.
    pub fn feed(&mut self, events: u64) {
        let start = time_text(START_MS + self.pieces as i64 * PIECE_MS);
        let (name, number) = (self.pipeline.name(), self.pieces);
        let seed = base_seed() * 1000 + self.pieces;
        let rate = events * 1000 / PIECE_MS as u64 + 1;
        let (partitions, late) = (self.lines.len(), if self.has_late { 0.02 } else { 0.0 });
        let flags = format!(
            "generate {name} --events {events} --rate {rate} --start {start} --seed {seed} --partitions {partitions} \
             --disorder 8s --late-fraction {late} --duplicates 0.01 --garbage 0.01 {}",
            self.pipeline.flags()
        );
        let folder = format!("in-{number}");
        self.place.ok(&format!("{flags} --to file:{folder}/"));
        self.place.ok(&format!("{flags} --to {}", self.topic()));
        let piece = self.place.partitions(&folder);
        assert_eq!(piece.len(), self.lines.len());
        for (lines, more) in self.lines.iter_mut().zip(piece) {
            assert!(!more.is_empty(), "an empty partition would count as idle");
            lines.extend(more);
        }
        self.pieces += 1;
    }

    /// The topic has so many partitions from now on.
    pub fn widen(&mut self, partitions: usize) {
        self.lines.resize(partitions, Vec::new());
    }

    /// Gives the cars' table times from which on rows count.
    pub fn version_cars(&self) {
        let table = self.place.read("dims/cars.csv");
        let mut lines = table.lines();
        let header = lines.next().expect("a header");
        assert!(!header.contains("valid_from"), "{header}");
        let mut rows = String::new();
        lines.for_each(|line| rows.extend([line, ",\n"]));
        self.place
            .replace("dims/cars.csv", &format!("{header},valid_from\n{rows}"));
    }

    /// From the next piece on, all cars have another driver and colour.
    pub fn change_cars(&self) {
        let table = self.place.read("dims/cars.csv");
        let from = time_text(START_MS + self.pieces as i64 * PIECE_MS);
        let header: Vec<_> = table.lines().next().expect("a header").split(',').collect();
        let newest = |line: &&str| line.ends_with(',');
        let changed = |line: &str| {
            let fields = header.iter().zip(line.split(','));
            let fields: Vec<_> = fields
                .map(|(name, field)| match *name {
                    "valid_from" => from.clone(),
                    "driver_id" => (self.pieces * 1000 + 7).to_string(),
                    "color_id" => (self.pieces % 7 + 1).to_string(),
                    _ => field.to_owned(),
                })
                .collect();
            fields.join(",") + "\n"
        };
        let more: String = table.lines().skip(1).filter(newest).map(changed).collect();
        self.place
            .replace("dims/cars.csv", &format!("{table}{more}"));
    }

    /// The line of a run of `tag` with so many workers.
    pub fn line(&self, tag: &str, workers: u64, more: &str) -> String {
        let outputs: Vec<_> = self
            .outputs
            .iter()
            .map(|it| it.flag(&self.site, tag))
            .collect();
        let outputs = outputs.join(" ");
        let (name, topic) = (self.pipeline.name(), self.topic());
        let shape = self.shape.flags();
        let dims = if self.pipeline == Pipeline::Cars {
            "--dims dir:dims"
        } else {
            ""
        };
        format!(
            "run {name} --from {topic} {dims} {shape} --idle-after 10h -w {workers} {outputs} {more}"
        )
    }

    fn kept_line(&self, workers: u64, more: &str) -> String {
        let (state, pace, flags) = (&self.state, self.pace, &self.flags);
        let more = format!("--state {state} --connect-timeout 60s {pace} {flags} {more}");
        self.line(KEPT, workers, &more)
    }

    /// Starts a run of the disturbed job.
    pub fn start(&mut self, workers: u64, more: &str, environment: &[(&str, &str)]) -> Process {
        let line = self.kept_line(workers, more);
        self.start_line(&line, environment)
    }

    /// How many partitions the topic has.
    pub const fn width(&self) -> usize {
        self.lines.len()
    }

    /// Starts `highwater LINE`.
    pub fn start_line(&mut self, line: &str, environment: &[(&str, &str)]) -> Process {
        let mut command = self.place.command(line);
        if let Some(namespace) = &self.namespace {
            command = within(namespace, &command);
        }
        command.env("HIGHWATER_SECRET", "a secret of the tests alone");
        command.envs(environment.iter().copied());
        self.runs += 1;
        let log = self.place.path(&format!("runs/{:03}.log", self.runs));
        let mut head = String::new();
        for (name, value) in environment {
            head += &format!("{name}={value} ");
        }
        std::fs::write(
            self.place.path(&format!("runs/{:03}.line", self.runs)),
            format!("{head}highwater {line}\n"),
        )
        .expect("written");
        Process::start(command, line, log)
    }

    /// Starts a run with any number of workers in a single process.
    pub fn start_any(&mut self) -> Process {
        let workers = self.dice.within(1..5);
        self.start(workers, "", &[])
    }

    /// Starts a run with any numbers of processes and workers.
    pub fn start_any_processes(&mut self) -> Process {
        match self.dice.within(1..4) {
            1 => self.start_any(),
            processes => {
                let workers = self.dice.within(1..3);
                self.start(workers, &format!("-n {processes}"), &[])
            }
        }
    }

    /// Kills a run, which must not have ended before.
    #[track_caller]
    pub fn kill(&mut self, mut run: Process) {
        assert!(run.is_alive(), "it has ended by itself\n{}", run.said());
        run.kill();
        self.kills += 1;
    }

    /// A state in the object store.
    pub fn bucket_state(&self) -> String {
        format!(
            "s3://{}/{}/state",
            given("HIGHWATER_TEST_S3_BUCKET"),
            self.site.name
        )
    }

    /// Lets a run work until it has gone on from where the last one was.
    #[track_caller]
    pub fn until_it_works(&mut self, run: &mut Process) {
        let before = self.newest_epoch();
        run.until("it goes on", |_| self.newest_epoch() > before);
        self.recoveries.extend(run.recovered());
    }

    /// The last epoch in the log; `None` before there is one.
    pub fn newest_epoch(&self) -> Option<u64> {
        let shown = self.place.run(&format!("state show {} --json", self.state));
        let shown: Value = serde_json::from_str(&shown.stdout).ok()?;
        let logged = shown["logged"]["last"].as_u64();
        logged.or(shown["checkpoint"]["epoch"].as_u64())
    }

    /// Runs the disturbed job to the end of its input.
    #[track_caller]
    pub fn drain(&mut self) {
        let workers = self.dice.within(1..5);
        let run = self.start(workers, "--drain", &[]);
        run.ends_with(0);
    }

    /// Runs the job undisturbed, and compares all that both have left.
    #[track_caller]
    pub fn compare(&mut self) {
        let flags = &self.flags;
        let line = self.line(
            WHOLE,
            1,
            &format!("--quiet --state state-whole {flags} --drain"),
        );
        self.place.ok(&line);
        let mut shown = Vec::new();
        for output in &self.outputs {
            let whole = output.contents(&self.place, &self.site, WHOLE);
            let kept = if self.repeats {
                output.repeated_contents(&self.place, &self.site, KEPT)
            } else {
                output.contents(&self.place, &self.site, KEPT)
            };
            assert!(
                whole.len() > output.fewest(),
                "{} has {} rows",
                output.label(),
                whole.len()
            );
            if self.repeats && !output.replaces() {
                assert_at_least(&output.label(), &kept, &whole);
            } else {
                assert_same(&output.label(), &kept, &whole);
            }
            shown.push(format!("{} {}", output.label(), kept.len()));
        }
        self.compare_with_the_loop();
        self.look_at_the_state();
        self.summary(&shown.join(", "));
    }

    /// Whole, and the epochs that it has recorded give what they gave.
    #[track_caller]
    fn look_at_the_state(&self) {
        let state = &self.state;
        let replay = format!("replay {state} --from {}", self.topic());
        for line in [format!("state verify {state}"), replay] {
            let done = self.place.run(&line);
            let (out, err) = (done.stdout, done.stderr);
            assert_eq!(done.code, 0, "{line}: {out}{err}");
        }
    }

    /// Compares two chains of stages, topic by topic, and what comes out of them with the loop.
    #[track_caller]
    pub fn compare_chains(&self) {
        for name in ["enriched", "alerts"] {
            let output = Output::new(name, Sink::Kafka);
            let [kept, whole] =
                [KEPT, WHOLE].map(|tag| output.contents(&self.place, &self.site, tag));
            assert!(whole.len() > 3);
            assert_same(name, &kept, &whole);
        }
        let tables = Tables::read(&self.place, "dims");
        let naive = cars::windows(&tables, &self.lines, self.shape, cars::Unmatched::Keep);
        let rows = naive.rows(cars::columns);
        let mut meant: Vec<_> = rows.iter().map(Value::to_string).collect();
        meant.sort();
        for tag in [KEPT, WHOLE] {
            let found = self.place.read(&format!("{tag}/windows.ndjson"));
            let mut found: Vec<_> = found
                .lines()
                .map(|line| columns_of(line, &rows[0]).to_string())
                .collect();
            found.sort();
            assert_same(tag, &found, &meant);
        }
        self.summary(&format!("{} windows", meant.len()));
    }

    /// The ledger of both, and the windows where an output has their columns as they are.
    #[track_caller]
    fn compare_with_the_loop(&self) {
        let shape = self.shape;
        let (ledger, rows) = match self.pipeline {
            Pipeline::Factory => {
                let naive = factory::windows(&self.lines, shape);
                let rows = naive.rows(factory::columns);
                self.compare_quality();
                (naive.ledger, rows)
            }
            Pipeline::Fleet => {
                let naive = fleet::windows(&self.lines, shape);
                let rows = naive.rows(fleet::columns);
                self.compare_kept();
                (naive.ledger, rows)
            }
            Pipeline::Cars => {
                let tables = Tables::read(&self.place, "dims");
                let naive = cars::windows(&tables, &self.lines, shape, cars::Unmatched::Keep);
                let rows = naive.rows(cars::columns);
                (naive.ledger, rows)
            }
            Pipeline::Turnstile => {
                let naive = turnstile::naive(&self.lines, shape.wait);
                let rows = naive.rows();
                (naive.ledger.iter().map(of_turnstiles).collect(), rows)
            }
        };
        for state in [&self.state, "state-whole"] {
            let checkpoint = self.checkpoint(state);
            assert_eq!(checkpoint["is_drained"], true);
            let partitions = checkpoint["partitions"].as_array().expect("partitions");
            let found: Vec<_> = partitions.iter().map(ledger_of).collect();
            assert_eq!(found, ledger, "{state}");
        }
        assert_eq!(
            rows_of(&self.checkpoint(&self.state)),
            rows_of(&self.checkpoint("state-whole"))
        );
        assert!(rows.len() > 3);
        let plain = |output: &&Output| {
            output.name == "windows" && matches!(output.sink, Sink::Ndjson | Sink::Kafka)
        };
        for output in self.outputs.iter().filter(plain) {
            let mut found = output.contents(&self.place, &self.site, KEPT);
            if self.repeats {
                found.dedup();
            }
            let found: Vec<_> = found
                .iter()
                .map(|line| columns_of(line, &rows[0]))
                .collect();
            let mut meant: Vec<_> = rows.iter().map(Value::to_string).collect();
            meant.sort();
            let mut found: Vec<_> = found.iter().map(Value::to_string).collect();
            found.sort();
            assert_same(
                &format!("{} against the loop", output.label()),
                &found,
                &meant,
            );
        }
    }

    /// The summaries of quality, where there are some, add up to what was fed.
    #[track_caller]
    fn compare_quality(&self) {
        let readings = self.lines.iter().flatten();
        let readings: Vec<_> = readings.filter_map(|line| factory::reading(line)).collect();
        let count = |fault| {
            readings
                .iter()
                .filter(|it| it.fault() == Some(fault))
                .count()
        };
        let meant = json!({
            "rows": readings.len(),
            "out_of_range": count("out_of_range"),
            "missing_key": count("missing_key"),
        });
        for output in self.outputs.iter().filter(|it| it.name == "quality") {
            let found = output.contents(&self.place, &self.site, KEPT);
            assert_same(&output.label(), &found, &[meant.to_string()]);
        }
    }

    /// The records of the fleet that are kept, in a table.
    #[track_caller]
    fn compare_kept(&self) {
        let texts = |rows: Vec<Value>| {
            let mut texts: Vec<_> = rows.iter().map(Value::to_string).collect();
            texts.sort();
            texts
        };
        let meant = texts(fleet::kept(&self.lines));
        let is_table = |it: &&Output| it.name == "kept" && it.sink == Sink::Postgres;
        for output in self.outputs.iter().filter(is_table) {
            let found = output.contents(&self.place, &self.site, KEPT);
            let row = |line: &String| serde_json::from_str(line).expect("JSON");
            let found = found.iter().map(row).map(fleet::as_message).collect();
            assert_same(
                &format!("{} against the loop", output.label()),
                &texts(found),
                &meant,
            );
        }
    }

    /// The newest checkpoint of a state.
    pub fn checkpoint(&self, state: &str) -> Value {
        let Done { stdout, .. } = self.place.ok(&format!("state show {state} --json"));
        let mut shown: Value = serde_json::from_str(&stdout).expect("JSON");
        shown["checkpoint"].take()
    }

    /// What the last run has said at its end: a log of many tests is read from its end.
    fn last_lines(&self) -> String {
        let log = self.place.path(&format!("runs/{:03}.log", self.runs));
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// One line of what was survived.
    pub fn summary(&self, what: &str) {
        let mut recoveries = self.recoveries.clone();
        recoveries.sort();
        let middle = recoveries
            .get(recoveries.len() / 2)
            .copied()
            .unwrap_or_default();
        let worst = recoveries.last().copied().unwrap_or_default();
        let line = format!(
            "{:<48} {:>4} kills {:>3} servers  seed {:<6} {:>6.1} s  recovery {:.2} s, at most {:.2} s  {what}\n",
            self.scenario,
            self.kills,
            self.servers_killed + self.cuts,
            base_seed(),
            self.started.elapsed().as_secs_f64(),
            middle.as_secs_f64(),
            worst.as_secs_f64(),
        );
        write_down(&line);
    }
}

/// Says, also in the summary, that this machine cannot show a scenario.
pub fn left_out(scenario: &str, why: &str) {
    write_down(&format!("LEFT OUT: {scenario}: {why}\n"));
}

/// A line for whoever looks on, and for the summary of all scenarios.
fn write_down(line: &str) {
    eprint!("chaos: {line}");
    if let Some(path) = std::env::var_os("HIGHWATER_CHAOS_SUMMARY") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("written");
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.place.keep();
            eprintln!("{}", self.last_lines());
            eprintln!(
                "chaos: {} failed after {} kills; its folder: {}\n  again: dev/chaos --seed {} --only {}",
                self.scenario,
                self.kills,
                self.place.path("").display(),
                base_seed(),
                self.scenario
            );
        }
    }
}

/// The same command in a network namespace.
fn within(namespace: &str, inner: &Command) -> Command {
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", namespace])
        .arg(inner.get_program())
        .args(inner.get_args());
    if let Some(folder) = inner.get_current_dir() {
        command.current_dir(folder);
    }
    command
}

#[track_caller]
fn assert_same(what: &str, found: &[String], meant: &[String]) {
    let differs = found
        .iter()
        .zip(meant)
        .find(|(found, meant)| found != meant);
    assert!(
        found == meant,
        "{what}: {} lines, not {}; first difference: {differs:?}",
        found.len(),
        meant.len()
    );
}

/// Each line as often as it should be there, or more often, and no other.
#[track_caller]
fn assert_at_least(what: &str, found: &[String], meant: &[String]) {
    let mut rest = found.iter().peekable();
    for line in meant {
        let before = rest.peek().copied();
        assert!(
            rest.any(|it| it == line),
            "{what}: lost {line}, or {before:?} is too much"
        );
    }
    let meant: BTreeSet<_> = meant.iter().collect();
    let strange = found.iter().find(|line| !meant.contains(line));
    assert_eq!(strange, None, "{what}: nobody has asked for this");
}

/// How many rows each output has given.
fn rows_of(checkpoint: &Value) -> Vec<(String, u64)> {
    let outputs = checkpoint["outputs"].as_object().expect("outputs").iter();
    let rows =
        outputs.map(|(name, total)| (name.clone(), total["rows"].as_u64().unwrap_or_default()));
    // How often there is a row depends on how many epochs there are.
    rows.filter(|(name, _)| name != "quality").collect()
}

/// Of a row of windows only what the loop knows.
fn columns_of(line: &str, like: &Value) -> Value {
    let mut row: Value = serde_json::from_str(line).expect("JSON");
    assert!(row["diff"] == 1, "{line}");
    let like = like.as_object().expect("an object");
    row.as_object_mut()
        .expect("an object")
        .retain(|name, _| like.contains_key(name));
    row
}

/// Which of two copies is the duplicate is not the loop's business: both count as on time.
const fn of_turnstiles(ledger: &turnstile::Ledger) -> Ledger {
    Ledger {
        read: ledger.read,
        rejected: ledger.rejected,
        filtered: 0,
        no_window: 0,
        on_time: ledger.on_time_or_duplicate,
        late_kept: 0,
        late: ledger.late,
        late_windows: ledger.late,
    }
}

fn ledger_of(partition: &Value) -> Ledger {
    let fates = &partition["fates"];
    let count = |name: &str| {
        fates[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {fates}"))
    };
    let all = [
        "rejected",
        "skipped",
        "duplicate",
        "filtered",
        "no_window",
        "late_dropped",
        "late_diverted",
        "late_kept",
        "on_time",
    ];
    assert_eq!(
        count("read"),
        all.into_iter().map(count).sum::<u64>(),
        "{fates}"
    );
    Ledger {
        read: count("read"),
        rejected: count("rejected"),
        filtered: count("filtered"),
        no_window: count("no_window"),
        on_time: count("on_time") + count("duplicate"),
        late_kept: count("late_kept"),
        late: count("late_dropped") + count("late_diverted"),
        late_windows: count("late_windows"),
    }
}
