//! The rules of the turnstile pipeline, written a second time.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::naive::{time_ms, time_text};
use super::place::{Place, finish};

/// Five minutes, the pipeline's own.
pub const SIZE: i64 = 300_000;

/// CA, UNIT, SCP, STATION, LINENAME, DIVISION, DATE as `MM/DD/YYYY`, DESC.
pub type Group = [String; 8];

/// A message of `mta-turnstile` with all its columns, and with times in UTC.
pub struct Reading {
    pub t: i64,
    pub group: Group,
    pub entries: i64,
    pub exits: i64,
    pub id: String,
}

/// What a line is.
enum Line {
    Header,
    Rejected,
    Reading(Box<Reading>),
}

fn line(bytes: &[u8]) -> Line {
    let Ok(line) = serde_json::from_slice::<String>(bytes) else {
        return Line::Rejected;
    };
    let fields: Vec<_> = line.split(',').collect();
    if fields.first() == Some(&"CA") {
        return Line::Header;
    }
    let [
        ca,
        unit,
        scp,
        station,
        lines,
        division,
        date,
        _,
        desc,
        entries,
        exits,
        id,
        timestamp,
    ] = fields[..]
    else {
        return Line::Rejected;
    };
    let day: Vec<_> = date.split('-').collect();
    let date = format!("{}/{}/20{}", day[0], day[1], day[2]);
    let group = [ca, unit, scp, station, lines, division, &date, desc];
    Line::Reading(Box::new(Reading {
        t: time_ms(timestamp).expect("a time"),
        group: group.map(str::to_owned),
        entries: entries.parse().expect("a number"),
        exits: exits.parse().expect("a number"),
        id: id.to_owned(),
    }))
}

/// The fates of the records of one partition. Which of two copies in different partitions is the
/// duplicate depends on epochs, so those are counted over all partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub read: u64,
    pub skipped: u64,
    pub rejected: u64,
    pub late: u64,
    pub on_time_or_duplicate: u64,
}

/// What should come out.
#[derive(Default)]
pub struct Naive {
    /// Entries and exits by the window's end and group.
    pub sums: BTreeMap<(i64, Group), (i64, i64)>,
    pub ledger: Vec<Ledger>,
    pub duplicates: u64,
    /// The ids of readings that were late, with their partitions.
    pub late: BTreeSet<(usize, String)>,
}

/// A plain loop: a reading counts if a copy of it is on time in its own partition.
pub fn naive(partitions: &[Vec<Vec<u8>>], wait: i64) -> Naive {
    let mut all = Naive::default();
    let mut seen = BTreeSet::new();
    for (partition, lines) in partitions.iter().enumerate() {
        let (mut ledger, mut high) = (Ledger::default(), None);
        for bytes in lines {
            ledger.read += 1;
            let reading = match line(bytes) {
                Line::Header => {
                    ledger.skipped += 1;
                    continue;
                }
                Line::Rejected => {
                    ledger.rejected += 1;
                    continue;
                }
                Line::Reading(reading) => reading,
            };
            let t = reading.t;
            let tau = high.map_or(t, |high: i64| t.max(high - wait));
            high = high.max(Some(t));
            let end = t.div_euclid(SIZE) * SIZE + SIZE;
            if tau >= end {
                ledger.late += 1;
                all.late.insert((partition, reading.id));
                continue;
            }
            ledger.on_time_or_duplicate += 1;
            if seen.insert((reading.id, reading.group[3].clone(), t)) {
                let sums = all.sums.entry((end, reading.group)).or_default();
                sums.0 += reading.entries;
                sums.1 += reading.exits;
            } else {
                all.duplicates += 1;
            }
        }
        all.ledger.push(ledger);
    }
    all
}

impl Naive {
    /// The rows of the output `windows`, in the order of end and group.
    pub fn rows(&self) -> Vec<Value> {
        let row = |((end, group), sums): (&(i64, Group), &(i64, i64))| {
            row(*end, &time_text(*end)[11..19], group, *sums)
        };
        self.sums.iter().map(row).collect()
    }

    #[track_caller]
    pub fn assert_ledger(&self, report: &Value) {
        let inputs = report["inputs"].as_array().expect("inputs");
        let count = |input: &Value, name: &str| input[name].as_u64().expect("a number");
        let found = inputs.iter().map(|input| Ledger {
            read: count(input, "read"),
            skipped: count(input, "skipped"),
            rejected: count(input, "rejected"),
            late: count(input, "late_dropped") + count(input, "late_diverted"),
            on_time_or_duplicate: count(input, "on_time") + count(input, "duplicate"),
        });
        assert_eq!(found.collect::<Vec<_>>(), self.ledger);
        let duplicates: u64 = inputs.iter().map(|input| count(input, "duplicate")).sum();
        assert_eq!(duplicates, self.duplicates);
    }
}

/// One row of `windows`; `time` is what clocks show when it ends.
pub fn row(end: i64, time: &str, group: &Group, (entries, exits): (i64, i64)) -> Value {
    let [ca, unit, scp, station, lines, division, date, desc] = group;
    json!({
        "window_start": time_text(end - SIZE),
        "window_end": time_text(end),
        "CA": ca,
        "UNIT": unit,
        "SCP": scp,
        "STATION": station,
        "LINENAME": lines,
        "DIVISION": division,
        "DATE": date,
        "TIME": time,
        "DESC": desc,
        "ENTRIES": entries,
        "EXITS": exits,
    })
}

/// Rows of a file without what only the engine knows.
pub fn plain(rows: Vec<Value>) -> Vec<Value> {
    let plain = |mut row: Value| {
        let fields = row.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "pane" && name != "diff" && !name.starts_with("source_"));
        row
    };
    rows.into_iter().map(plain).collect()
}

pub const HEADER: &str = "CA,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS";

/// The lines of a lake of compressed CSV, in the order of their texts. Asserts that each file has
/// the header, and rows.
#[track_caller]
pub fn lake(place: &Place, folder: &str) -> Vec<String> {
    let names = place.files(folder).into_iter();
    let names: Vec<_> = names.filter(|name| !name.starts_with(['.', '_'])).collect();
    assert!(
        names.iter().all(|name| name.ends_with(".csv.gz")),
        "{names:?}"
    );
    let mut command = std::process::Command::new("gzip");
    command
        .arg("-dc")
        .args(&names)
        .current_dir(place.path(folder));
    let done = finish(command);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let all: Vec<_> = done.stdout.lines().collect();
    // Each file's lines follow those of the one before.
    let headers = all.iter().filter(|line| **line == HEADER).count();
    assert_eq!(headers, names.len(), "a header in each file");
    assert_eq!(all.first(), Some(&HEADER));
    let is_empty = |pair: &[&str]| pair[0] == HEADER && pair[1] == HEADER;
    assert!(
        !all.windows(2).any(is_empty) && all.last() != Some(&HEADER),
        "rows in each file"
    );
    let rows = all.into_iter().filter(|line| *line != HEADER);
    let mut lines: Vec<_> = rows.map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Rows as the lines of a lake.
pub fn lake_lines(rows: &[Value]) -> Vec<String> {
    let cell = |row: &Value, name: &str| match &row[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let line = |row: &Value| {
        let cells = HEADER.split(',').map(|name| cell(row, name));
        cells.collect::<Vec<_>>().join(",")
    };
    let mut lines: Vec<_> = rows.iter().map(line).collect();
    lines.sort();
    lines
}

/// The flags of [`crowded`]: 10,000 readings of 40 turnstiles in eight minutes and more.
pub const CROWD: &str = "--events 20_000 --turnstiles 40 --rate 20 --disorder 50s \
     --late-fraction 0.02 --duplicates 0.02 --garbage 0.01";

/// Generated readings in four partitions, with a header line, and with copies in other partitions:
/// some on time there, some late.
pub fn crowded() -> Place {
    let place = Place::new();
    place.ok(&format!(
        "generate turnstile {CROWD} --seed 11 --to file:in/"
    ));
    let mut partitions = place.partitions("in");
    assert_eq!(partitions.len(), 4);
    let before = partitions.clone();
    for (target, lines) in partitions.iter_mut().enumerate() {
        let from = &before[(target + 1) % 4];
        let mut copied = Vec::new();
        for (at, line) in lines.drain(..).enumerate() {
            copied.push(line);
            // About as old as what is around it.
            copied.extend(from.get(at).filter(|_| at % 17 == 0).cloned());
            // Minutes older, and much too late here.
            copied.extend(
                at.checked_sub(3000)
                    .and_then(|at| from.get(at))
                    .filter(|_| at % 31 == 0)
                    .cloned(),
            );
        }
        *lines = copied;
    }
    let header = format!("\"{HEADER},ID,TIMESTAMP\"").into_bytes();
    partitions[2].insert(0, header);
    for (number, lines) in partitions.iter().enumerate() {
        let mut bytes = lines.join(&b'\n');
        bytes.push(b'\n');
        place.write(&format!("in/part-{number:05}.ndjson"), bytes);
    }
    place
}

/// Turnstiles of the weekly file that [`week`] makes.
const WEEK_TURNSTILES: usize = 100;
/// Readings of each, one in twenty minutes.
const WEEK_READINGS: i64 = 120;
/// All of them.
pub const WEEK_LINES: i64 = WEEK_TURNSTILES as i64 * WEEK_READINGS;
/// 2024-03-09T00:00:00 in New York, the day before the clocks are set forward.
const WEEK_START: i64 = 1_709_960_400_000;

/// What a line of [`week`] holds, in the order of the columns from DESC on.
struct Row {
    turnstile: usize,
    /// In UTC.
    t: i64,
    desc: &'static str,
    entries: i64,
    exits: i64,
}

fn week_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for turnstile in 0..WEEK_TURNSTILES {
        let (mut entries, mut exits) = (1_000_000 * turnstile as i64, 20_000);
        for step in 0..WEEK_READINGS {
            let number = step + turnstile as i64;
            entries += number * 37 % 211;
            exits += number * 53 % 97;
            match number % 29 {
                11 => entries = step,
                13 => exits = 1000,
                17 => exits -= 97,
                19 => exits += 20_000,
                23 => entries += 10_000 + turnstile as i64 % 2,
                _ => {}
            }
            let desc = if number % 13 == 4 {
                "RECOVR AUD"
            } else {
                "REGULAR"
            };
            let t = WEEK_START + step * 1_200_000 + turnstile as i64 * 3_000;
            rows.push(Row {
                turnstile,
                t,
                desc,
                entries,
                exits,
            });
        }
    }
    rows
}

/// What clocks in New York show at `t`, of [`week`]: an hour more from 07:00 UTC on the tenth on.
fn new_york(t: i64) -> String {
    let offset = if t < 1_710_054_000_000 { -5 } else { -4 };
    time_text(t + offset * 3_600_000)
}

/// Date and time as the weekly file has them.
fn shown(t: i64) -> (String, String) {
    let text = new_york(t);
    let date = format!("{}/{}/{}", &text[5..7], &text[8..10], &text[..4]);
    (date, text[11..19].to_owned())
}

fn group(row: &Row) -> Group {
    let number = row.turnstile;
    let station = if number.is_multiple_of(2) {
        "59 ST"
    } else {
        "GRD CNTRL-42 ST"
    };
    let scp = format!("00-00-{:02}", number % 10);
    let (ca, unit) = (
        format!("A{:03}", number / 10),
        format!("R{:03}", number / 10),
    );
    let date = shown(row.t).0;
    [&ca, &unit, &scp, station, "NQR456W", "BMT", &date, row.desc].map(str::to_owned)
}

/// A weekly file, sorted by turnstile as the real one is, over the night in which clocks are set
/// forward: with counters that are reset, run backwards and jump.
pub fn week(place: &Place, name: &str) {
    let mut text =
        "C/A,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS      \n".to_owned();
    for row in week_rows() {
        let [ca, unit, scp, station, lines, division, date, desc] = group(&row);
        let (time, entries, exits) = (shown(row.t).1, row.entries, row.exits);
        text += &format!(
            "{ca},{unit},{scp},{station},{lines},{division},{date},{time},{desc},{entries:010},{exits:010}   \n"
        );
    }
    place.write(name, text);
}

/// What [`week`] comes to: the rows of `windows`, and how many deltas are in quarantine, by reason.
pub fn week_deltas() -> (Vec<Value>, BTreeMap<&'static str, usize>) {
    let rows = week_rows();
    let mut sums: BTreeMap<(i64, Group), (i64, i64)> = BTreeMap::new();
    let mut quarantine = BTreeMap::new();
    let same = |pair: &&[Row]| pair[0].turnstile == pair[1].turnstile;
    for pair in rows.windows(2).filter(same) {
        let entries = pair[1].entries - pair[0].entries;
        let exits = pair[1].exits - pair[0].exits;
        let reason = match (entries, exits) {
            (..=-1, _) => "negative",
            (10_001.., _) => "too_large",
            (_, ..=-1) => "negative_exits",
            (_, 10_001..) => "too_large_exits",
            _ => "",
        };
        if reason.is_empty() {
            let end = pair[1].t.div_euclid(SIZE) * SIZE + SIZE;
            let sum = sums.entry((end, group(&pair[1]))).or_default();
            sum.0 += entries;
            sum.1 += exits;
        } else {
            *quarantine.entry(reason).or_default() += 1;
        }
    }
    let row = |((end, group), sums): (&(i64, Group), &(i64, i64))| {
        row(*end, &shown(*end).1, group, *sums)
    };
    (sums.iter().map(row).collect(), quarantine)
}

/// How many rows of `quarantine` there are, by reason.
pub fn reasons(rows: &[Value]) -> BTreeMap<&str, usize> {
    let mut reasons = BTreeMap::new();
    for row in rows {
        *reasons
            .entry(row["reason"].as_str().expect("a reason"))
            .or_default() += 1;
    }
    reasons
}
