//! Windows and ledger by a plain loop over lines and windows, as the rule is written down:
//!
//! ```text
//! w_i   = max over j < i of t_j, minus wait
//! tau_i = max(t_i, w_i)
//! on time for [s, e):  s <= t < e  and  tau < e
//! a revision of it:    e <= tau < e + keep
//! ```

use std::collections::BTreeMap;

use serde_json::Value;

/// The shape of windows and what is late, all in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub size: i64,
    pub slide: i64,
    pub offset: i64,
    pub wait: i64,
    pub keep: i64,
}

impl Shape {
    /// Tumbling windows.
    pub const fn tumbling(size: i64, wait: i64) -> Self {
        Self {
            size,
            slide: size,
            offset: 0,
            wait,
            keep: 0,
        }
    }

    /// The flags of the command line that mean it.
    pub fn flags(self) -> String {
        let Self {
            size,
            slide,
            offset,
            wait,
            keep,
        } = self;
        format!(
            "--window {size}ms --slide {slide}ms --offset {offset}ms --wait {wait}ms --keep {keep}ms"
        )
    }

    /// The flags of the oracle that mean it.
    pub fn oracle_flags(self) -> Vec<String> {
        let Self {
            size,
            slide,
            offset,
            wait,
            keep,
        } = self;
        let flags = [
            ("window", size),
            ("slide", slide),
            ("offset", offset),
            ("wait", wait),
            ("keep", keep),
        ];
        flags
            .iter()
            .flat_map(|(name, ms)| [format!("--{name}-ms"), ms.to_string()])
            .collect()
    }

    /// Start and end of the windows that hold `t`.
    fn windows(self, t: i64) -> Vec<(i64, i64)> {
        let last = (t - self.offset).div_euclid(self.slide) * self.slide + self.offset;
        let starts = (0..)
            .map(|step| last - step * self.slide)
            .take_while(|start| t < start + self.size);
        starts.map(|start| (start, start + self.size)).collect()
    }
}

/// What a line is to the pipeline.
pub enum Line<T> {
    /// No record: it moves no watermark.
    Rejected,
    /// A record that becomes a dead letter later on: it does move the watermark.
    DeadLetter(i64),
    /// A record that no window counts.
    Filtered(i64),
    /// A record that windows count.
    Counted(i64, T),
}

/// The fates of one partition's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub read: u64,
    pub rejected: u64,
    pub filtered: u64,
    pub no_window: u64,
    pub on_time: u64,
    pub late_kept: u64,
    pub late: u64,
    pub late_windows: u64,
}

/// A window: its end, its start, and its key.
pub type Key<K> = (i64, i64, K);

/// What should come out.
pub struct Naive<K, T> {
    /// What each window holds.
    pub windows: BTreeMap<Key<K>, Vec<T>>,
    /// One per partition.
    pub ledger: Vec<Ledger>,
    /// What was late for all its windows, per partition.
    pub late: Vec<Vec<T>>,
    /// Every partition's own records have passed this time.
    pub proved: i64,
}

/// The loop.
pub fn naive<K: Ord, T: Clone>(
    partitions: &[Vec<Vec<u8>>],
    shape: Shape,
    line: impl Fn(&[u8]) -> Line<T>,
    key: impl Fn(&T) -> K,
) -> Naive<K, T> {
    let mut all = Naive {
        windows: BTreeMap::new(),
        ledger: vec![],
        late: vec![],
        proved: i64::MAX,
    };
    for lines in partitions {
        let (mut ledger, mut late, mut high) = (Ledger::default(), Vec::new(), None);
        for bytes in lines {
            ledger.read += 1;
            let line = line(bytes);
            let t = match &line {
                Line::Rejected => i64::MIN,
                Line::DeadLetter(t) | Line::Filtered(t) | Line::Counted(t, _) => *t,
            };
            let tau = high.map_or(t, |high: i64| t.max(high - shape.wait));
            high = high.max((t > i64::MIN).then_some(t));
            match line {
                Line::Rejected | Line::DeadLetter(_) => ledger.rejected += 1,
                Line::Filtered(_) => ledger.filtered += 1,
                Line::Counted(_, record) => {
                    all.assign(shape, t, tau, record, &key, &mut ledger, &mut late);
                }
            }
        }
        all.ledger.push(ledger);
        all.late.push(late);
        all.proved = all
            .proved
            .min(high.map_or(i64::MIN, |high| high - shape.wait));
    }
    all
}

impl<K: Ord, T: Clone> Naive<K, T> {
    #[expect(clippy::too_many_arguments, reason = "one step of a loop")]
    fn assign(
        &mut self,
        shape: Shape,
        t: i64,
        tau: i64,
        record: T,
        key: &impl Fn(&T) -> K,
        ledger: &mut Ledger,
        late: &mut Vec<T>,
    ) {
        let windows = shape.windows(t);
        let (mut on_time, mut kept) = (false, false);
        for (start, end) in &windows {
            if tau < end + shape.keep {
                on_time |= tau < *end;
                kept |= tau >= *end;
                let window = self
                    .windows
                    .entry((*end, *start, key(&record)))
                    .or_default();
                window.push(record.clone());
            } else {
                ledger.late_windows += 1;
            }
        }
        match (on_time, kept) {
            _ if windows.is_empty() => ledger.no_window += 1,
            (true, _) => ledger.on_time += 1,
            (false, true) => ledger.late_kept += 1,
            (false, false) => {
                ledger.late += 1;
                late.push(record);
            }
        }
    }

    /// The lines of the output `windows` with keep 0; `columns` are those of the pipeline.
    pub fn lines(&self, columns: impl Fn(&Key<K>, &[T]) -> String) -> String {
        let mut text = String::new();
        for (window, records) in &self.windows {
            let complete = if window.0 <= self.proved {
                "proved"
            } else {
                "end-of-input"
            };
            text += &format!(
                "{{{},\"pane\":{{\"timing\":\"on-time\",\"index\":0,\"final\":true,\
                 \"complete\":\"{complete}\"}},\"diff\":1}}\n",
                columns(window, records)
            );
        }
        text
    }

    /// The same without what only the engine knows, as objects.
    pub fn rows(&self, columns: impl Fn(&Key<K>, &[T]) -> String) -> Vec<Value> {
        let row = |(window, records): (&Key<K>, &Vec<T>)| {
            serde_json::from_str(&format!("{{{}}}", columns(window, records))).expect("JSON")
        };
        self.windows.iter().map(row).collect()
    }

    /// Asserts that the ledger in a report is this one, and that it sums up.
    #[track_caller]
    pub fn assert_ledger(&self, report: &Value) {
        let inputs = report["inputs"].as_array().expect("inputs");
        let found: Vec<Ledger> = inputs.iter().map(ledger_of).collect();
        assert_eq!(found, self.ledger);
    }
}

fn ledger_of(input: &Value) -> Ledger {
    let count = |name: &str| {
        input[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {input}"))
    };
    let fates = [
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
        fates.iter().copied().map(count).sum::<u64>(),
        "{input}"
    );
    Ledger {
        // The loop never sees a blank line.
        read: count("read") - count("skipped"),
        rejected: count("rejected"),
        filtered: count("filtered"),
        no_window: count("no_window"),
        on_time: count("on_time"),
        late_kept: count("late_kept"),
        late: count("late_dropped") + count("late_diverted"),
        late_windows: count("late_windows"),
    }
}

/// The last revision of each window, without pane and diff, in the order of end, start and key.
pub fn last_revisions(rows: Vec<Value>, key: &str) -> Vec<Value> {
    let mut last = BTreeMap::new();
    for mut row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let window = (text("window_end"), text("window_start"), text(key));
        let fields = row.as_object_mut().expect("an object");
        fields.remove("pane");
        match fields.remove("diff").and_then(|diff| diff.as_i64()) {
            Some(1) => assert!(
                last.insert(window, row).is_none(),
                "a result without the withdrawal of the one before"
            ),
            Some(-1) => assert_eq!(
                last.remove(&window),
                Some(row),
                "what is withdrawn is what was there"
            ),
            diff => panic!("diff {diff:?}"),
        }
    }
    last.into_values().collect()
}

/// Milliseconds since 1970 of an RFC 3339 time.
pub fn time_ms(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let (mut y, m, d) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days since 1970, with years that begin in March.
    y -= i64::from(m <= 2);
    let day_of_year = (153 * ((m + 9) % 12) + 2) / 5 + d - 1;
    let days =
        365 * y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + day_of_year - 719_468;
    let rest = &text[19..];
    let digits = rest
        .strip_prefix('.')
        .map_or(0, |f| f.bytes().take_while(u8::is_ascii_digit).count());
    let fraction = if digits == 0 { "" } else { &rest[1..=digits] };
    let zone = if digits == 0 {
        rest
    } else {
        &rest[1 + digits..]
    };
    let millis = format!("{fraction:0<3}")[..3].parse::<i64>().ok()?;
    let zone_minutes = match zone {
        "" | "Z" | "z" => 0,
        zone => {
            let minutes =
                zone.get(1..3)?.parse::<i64>().ok()? * 60 + zone.get(4..6)?.parse::<i64>().ok()?;
            if zone.starts_with('-') {
                -minutes
            } else {
                minutes
            }
        }
    };
    Some(days * 86_400_000 + (hour * 60 + minute - zone_minutes) * 60_000 + second * 1000 + millis)
}

/// The other way round.
pub fn time_text(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        of_day % 1000
    )
}

#[test]
fn times_are_read_and_written() {
    for text in [
        "1970-01-01T00:00:00.000Z",
        "2024-02-29T23:59:59.999Z",
        "1969-12-31T23:59:59.500Z",
        "9999-12-31T00:00:00.000Z",
    ] {
        assert_eq!(time_text(time_ms(text).expect("a time")), text);
    }
    assert_eq!(time_ms("1970-01-01T01:00:01+01:00"), Some(1000));
    assert_eq!(time_ms("1970-01-01T00:00:01.123456Z"), Some(1123));
    assert_eq!(time_ms("soon"), None);
}

/// A field is of another type.
#[derive(Debug)]
pub struct WrongType;

fn field<T>(
    event: &Value,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, WrongType> {
    match event.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or(WrongType),
    }
}

/// A field that is a number or null.
pub fn real(event: &Value, name: &str) -> Result<Option<f64>, WrongType> {
    field(event, name, Value::as_f64)
}

/// A field that is a whole number or null.
pub fn whole(event: &Value, name: &str) -> Result<Option<i64>, WrongType> {
    field(event, name, Value::as_i64)
}

/// A field that is a text or null.
pub fn string(event: &Value, name: &str) -> Result<Option<String>, WrongType> {
    field(event, name, |value| value.as_str().map(str::to_owned))
}
