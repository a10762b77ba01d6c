//! The readings of the turnstile pipeline, as messages and as lines of the weekly file.
//!
//! | columns | where |
//! |---|---|
//! | CA, UNIT, SCP, STATION, LINENAME, DIVISION, DATE, TIME, DESC, ENTRIES, EXITS, ID, TIMESTAMP | messages |
//! | the same without TIMESTAMP, or without ID and TIMESTAMP | other producers, and the weekly file |
//! | a row number, then the eleven without ID and TIMESTAMP | copies of the weekly file |

use highwater::decode::{Decoded, Message, Reason, Rejection, Text, utf8};
use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::time::{Date, EventTime};
use serde::{Deserialize, Serialize};

use super::line::{Fields, unwrapped};

/// A short name: control area, unit, position, division.
pub type Name = Text<16>;
/// A station.
pub type Station = Text<32>;
/// The lines that stop there, or the kind of a reading.
pub type Label = Text<24>;
/// What a producer calls a reading.
pub type ReadingId = Text<40>;

/// What identifies a turnstile: control area, unit and position.
pub type TurnstileId = (Name, Name, Name);

/// What readings are summed by.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Group {
    /// The control area.
    pub ca: Name,
    /// The unit in it.
    pub unit: Name,
    /// The position in the unit.
    pub scp: Name,
    /// The station.
    pub station: Station,
    /// The lines that stop there.
    pub line_name: Label,
    /// The division to which the lines belonged.
    pub division: Name,
    /// The day as the reading has it.
    pub date: Date,
    /// `REGULAR`, or `RECOVR AUD` for one that was recovered.
    pub desc: Label,
}

highwater::fixed_layout!(Group {
    ca,
    unit,
    scp,
    station,
    line_name,
    division,
    date,
    desc,
});

impl Group {
    /// The turnstile.
    pub const fn turnstile(&self) -> TurnstileId {
        (self.ca, self.unit, self.scp)
    }

    /// The columns up to the division and the date, then those between, which [`Group::write`]
    /// leaves to its caller.
    pub(super) fn columns() -> [Column; 7] {
        [
            "CA", "UNIT", "SCP", "STATION", "LINENAME", "DIVISION", "DATE",
        ]
        .map(|name| Column::new(name, ColumnType::Text))
    }

    /// Writes the cells of [`Group::columns`].
    pub(super) fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.ca.as_str());
        row.text(self.unit.as_str());
        row.text(self.scp.as_str());
        row.text(self.station.as_str());
        row.text(self.line_name.as_str());
        row.text(self.division.as_str());
        let (year, month, day) = self.date.year_month_day();
        row.text(format!("{month:02}/{day:02}/{year:04}").as_str());
    }

    /// What keys a message about the turnstile.
    pub(super) fn message_key(&self, key: &mut Vec<u8>) {
        key.extend_from_slice(format!("{},{},{}", self.ca, self.unit, self.scp).as_bytes());
    }
}

/// What a turnstile has reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Turnstile, station, day and kind.
    pub group: Group,
    /// The counter of entries.
    pub entries: i64,
    /// The counter of exits.
    pub exits: i64,
    /// What the producer calls the reading; empty when it has no name.
    pub id: ReadingId,
    /// When it was taken.
    pub time: EventTime,
}

highwater::fixed_layout!(Reading {
    group,
    entries,
    exits,
    id,
    time,
});

impl Reading {
    /// What copies of a reading have in common, with their time; a reading without a name is no
    /// copy of any other.
    pub fn identity(&self) -> Option<(ReadingId, Station)> {
        (!self.id.is_empty()).then_some((self.id, self.group.station))
    }
}

/// Who has passed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Passage {
    /// Where and on which day.
    pub group: Group,
    /// How many have entered.
    pub entries: i64,
    /// How many have left.
    pub exits: i64,
}

impl Passage {
    /// Of a reading whose counters begin anew each time.
    pub const fn of(reading: &Reading) -> Self {
        Self {
            group: reading.group,
            entries: reading.entries,
            exits: reading.exits,
        }
    }
}

/// Positions of columns, without a row number before them.
const DATE: usize = 6;
/// With and without ID and TIMESTAMP.
const COLUMNS: std::ops::RangeInclusive<usize> = 11..=13;

/// Reads a reading. Without TIMESTAMP it was taken at DATE and TIME; both are local, in the time
/// zone of the run.
///
/// # Errors
/// When the message is no such line, or a field is none of its kind.
pub fn decode(message: Message<'_>) -> Result<Decoded<Reading>, Rejection> {
    let line = unwrapped(utf8(message.value)?)?;
    let fields = Fields::split(&line)?;
    if fields.is_header() {
        return Ok(Decoded::Skip);
    }
    let (first, day) = layout(&fields)?;
    let field = |column: usize| fields.get(first + column);
    let name = |column, name| Name::field(field(column), name);
    let group = Group {
        ca: name(0, "CA")?,
        unit: name(1, "UNIT")?,
        scp: name(2, "SCP")?,
        station: Station::field(field(3), "STATION")?,
        line_name: Label::field(field(4), "LINENAME")?,
        division: name(5, "DIVISION")?,
        date: day,
        desc: Label::field(field(8), "DESC")?,
    };
    if group.ca.is_empty() || group.unit.is_empty() || group.scp.is_empty() {
        let detail = "CA, UNIT and SCP name a turnstile together";
        return Err(Rejection::new(Reason::NoKey, detail));
    }
    let time = match field(12) {
        "" => message.zone.instant(day.at(time_of_day(field(7))?)),
        timestamp => message.event_time(Some(timestamp), "TIMESTAMP")?,
    };
    let reading = Reading {
        group,
        entries: counter(field(9), "ENTRIES")?,
        exits: counter(field(10), "EXITS")?,
        id: ReadingId::field(field(11), "ID")?,
        time,
    };
    Ok(Decoded::Record(time, reading))
}

/// Where the columns begin, and the day of the reading, by which that is known.
fn layout(fields: &Fields) -> Result<(usize, Date), Rejection> {
    let columns = fields.len();
    if !COLUMNS.contains(&columns) {
        let detail = format!(
            "{columns} columns; a reading has CA, UNIT, SCP, STATION, LINENAME, DIVISION, DATE, \
             TIME, DESC, ENTRIES, EXITS and perhaps ID and TIMESTAMP"
        );
        return Err(Rejection::new(Reason::Undecodable, detail));
    }
    let first = date(fields.get(DATE)).map(|day| (0, day));
    let has_row_number = || {
        let day = date(fields.get(DATE + 1)).filter(|_| columns == 12);
        day.map(|day| (1, day))
    };
    first.or_else(has_row_number).ok_or_else(|| {
        let shown = fields.get(DATE);
        Rejection::new(Reason::NoTime, format!("DATE: not a date: {shown:?}"))
    })
}

/// `MM-DD-YY`, `MM/DD/YYYY`, and the other two.
fn date(text: &str) -> Option<Date> {
    let separator = text.chars().find(|character| !character.is_ascii_digit())?;
    if !matches!(separator, '-' | '/') {
        return None;
    }
    let mut parts = text.split(separator);
    let mut part = |digits: &[usize]| {
        let part = parts.next()?;
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && digits.contains(&part.len())).then(|| part.parse::<i64>().ok())?
    };
    let (month, day, year) = (part(&[2])?, part(&[2])?, part(&[2, 4])?);
    let year = match year {
        0..100 => 2000 + year,
        // Four digits with zeros in front are no year of a turnstile.
        100..1000 => return None,
        _ => year,
    };
    parts
        .next()
        .is_none()
        .then(|| Date::new(year, month, day))?
}

/// The milliseconds of `HH:MM:SS`.
fn time_of_day(text: &str) -> Result<i64, Rejection> {
    let wrong = || Rejection::new(Reason::NoTime, format!("TIME: not HH:MM:SS: {text:?}"));
    let mut parts = text.split(':').map(|part| {
        let is_number = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<i64>().ok())?
    });
    let mut part = |most: i64| {
        let part = parts.next().flatten().filter(|part| *part <= most);
        part.ok_or_else(wrong)
    };
    let seconds = (part(23)? * 60 + part(59)?) * 60 + part(59)?;
    if parts.next().is_some() {
        return Err(wrong());
    }
    Ok(seconds * 1000)
}

fn counter(text: &str, name: &str) -> Result<i64, Rejection> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return text.parse().map_err(|_| {
            Rejection::new(
                Reason::OutOfRange,
                format!("{name}: no counter goes to {text}"),
            )
        });
    }
    Err(match text.parse::<f64>() {
        Ok(_) => Rejection::new(
            Reason::OutOfRange,
            format!("{name}: not a whole number from 0 on: {text:?}"),
        ),
        Err(_) => Rejection::new(
            Reason::Undecodable,
            format!("{name}: not a number: {text:?}"),
        ),
    })
}

impl Tabular for Reading {
    fn columns() -> Vec<Column> {
        let mut columns = Group::columns().to_vec();
        columns.extend([
            Column::new("DESC", ColumnType::Text),
            Column::new("ENTRIES", ColumnType::Int),
            Column::new("EXITS", ColumnType::Int),
            Column::nullable("ID", ColumnType::Text),
            Column::new("TIMESTAMP", ColumnType::Timestamp),
        ]);
        columns
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        self.group.write(row);
        row.text(self.group.desc.as_str());
        row.int(self.entries);
        row.int(self.exits);
        row.text(self.id.or_null());
        row.timestamp(self.time);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        self.group.message_key(key);
    }
}

#[cfg(test)]
mod tests {
    use highwater::source::RawRecord;
    use highwater::time::{Offset, Zone};

    use super::*;

    fn decoded_in(zone: &Zone, line: &[u8]) -> Result<Decoded<Reading>, Rejection> {
        let record = RawRecord {
            offset: Offset(0),
            key: None,
            value: None,
            append_time: None,
        };
        decode(Message {
            value: line,
            key: None,
            record: &record,
            zone,
        })
    }

    fn reading(line: &str) -> Reading {
        match decoded_in(&Zone::UTC, line.as_bytes()) {
            Ok(Decoded::Record(time, reading)) => {
                assert_eq!(time, reading.time);
                reading
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[track_caller]
    fn refused(line: &str) -> (Reason, String) {
        match decoded_in(&Zone::UTC, line.as_bytes()) {
            Err(rejection) => (rejection.reason, rejection.detail),
            other => panic!("{line}: {other:?}"),
        }
    }

    const FULL: &str = "A001,R001,02-00-00,Test-Station1,456NQR,BMT,01-02-24,03:04:05,REGULAR,7,9,6c1f,2024-01-02 03:04:06";

    #[test]
    fn a_message_is_a_csv_line_in_a_json_string() {
        let reading = reading(&format!("\"{FULL}\""));
        assert_eq!(
            reading.group.turnstile(),
            ["A001", "R001", "02-00-00"]
                .map(|it| Name::new(it).unwrap_or_default())
                .into()
        );
        assert_eq!(reading.group.date, Date::new(2024, 1, 2).expect("a day"));
        assert_eq!((reading.entries, reading.exits), (7, 9));
        assert_eq!(reading.time.to_string(), "2024-01-02T03:04:06.000Z");
        let (id, station) = reading.identity().expect("a name");
        assert_eq!((id.as_str(), station.as_str()), ("6c1f", "Test-Station1"));
    }

    #[test]
    fn without_a_timestamp_date_and_time_count() {
        for cut in [",2024-01-02 03:04:06", ",6c1f,2024-01-02 03:04:06"] {
            let short = FULL.strip_suffix(cut).expect("its end");
            assert_eq!(reading(short).time.to_string(), "2024-01-02T03:04:05.000Z");
        }
        let empty = FULL.replace("2024-01-02 03:04:06", " ");
        assert_eq!(reading(&empty).time.to_string(), "2024-01-02T03:04:05.000Z");
        assert_eq!(reading("A,R,S,,,,01-02-24,00:00:00,,1,2").identity(), None);
    }

    #[test]
    fn lines_of_the_weekly_file_with_and_without_row_numbers() {
        let line = "A002,R051,02-00-00,59 ST,NQR456W,BMT,12/30/2023,03:00:00,RECOVR AUD,0000102019,0000073801      ";
        let plain = reading(line);
        assert_eq!(reading(&format!("17,{line}")), plain);
        assert_eq!((plain.entries, plain.exits), (102_019, 73_801));
        assert_eq!(plain.group.desc.as_str(), "RECOVR AUD");
        let new_york = Zone::named("America/New_York").expect("a zone");
        let Ok(Decoded::Record(time, _)) = decoded_in(&new_york, line.as_bytes()) else {
            panic!("a reading");
        };
        assert_eq!(time.to_string(), "2023-12-30T08:00:00.000Z");
    }

    #[test]
    fn both_changes_of_the_clocks() {
        let new_york = Zone::named("America/New_York").expect("a zone");
        let at = |date: &str, time: &str, timestamp: &str| {
            let line = format!("A,R,S,,,,{date},{time},REGULAR,1,2,x,{timestamp}");
            match decoded_in(&new_york, line.as_bytes()) {
                Ok(Decoded::Record(time, _)) => time.to_string(),
                other => panic!("{other:?}"),
            }
        };
        // Skipped: as before the change. Twice: the first.
        assert_eq!(at("03-10-24", "02:30:00", ""), "2024-03-10T07:30:00.000Z");
        assert_eq!(at("11-05-23", "01:30:00", ""), "2023-11-05T05:30:00.000Z");
        assert_eq!(
            at("01-01-24", "", "2024-03-10 02:30:00"),
            "2024-03-10T07:30:00.000Z"
        );
        assert_eq!(
            at("01-01-24", "", "2023-11-05 01:30:00"),
            "2023-11-05T05:30:00.000Z"
        );
        assert_eq!(
            at("01-01-24", "", "2023-11-05T01:30:00-05:00"),
            "2023-11-05T06:30:00.000Z"
        );
    }

    #[test]
    fn header_lines_are_no_records() {
        let header =
            "CA,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS,ID,TIMESTAMP";
        for line in [
            header.to_owned(),
            format!("\"{header}\""),
            format!(",{header}"),
        ] {
            assert_eq!(decoded_in(&Zone::UTC, line.as_bytes()), Ok(Decoded::Skip));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |old: &str, new: &str| refused(&FULL.replace(old, new));
        let reason = |(reason, _): (Reason, String)| reason;
        assert_eq!(refused("a,b").0, Reason::Undecodable);
        assert!(refused("a,b").1.contains("2 columns"));
        assert_eq!(refused("").0, Reason::Undecodable);
        assert_eq!(refused("{\"CA\": \"A001\"}").0, Reason::Undecodable);
        assert_eq!(refused(&format!("\"{FULL}")).0, Reason::Undecodable);
        assert_eq!(refused(&format!("\"{FULL}\\x\"")).0, Reason::Undecodable);
        assert_eq!(refused(&format!("{FULL},,,,,")).0, Reason::Undecodable);
        assert_eq!(with(",7,", ",seven,").0, Reason::Undecodable);
        assert!(with(",7,", ",seven,").1.contains("ENTRIES"));
        assert_eq!(reason(with(",7,", ",,")), Reason::Undecodable);
        assert_eq!(reason(with(",9,", ",-9,")), Reason::OutOfRange);
        assert_eq!(reason(with(",9,", ",9.5,")), Reason::OutOfRange);
        assert_eq!(
            reason(with(",9,", ",99999999999999999999,")),
            Reason::OutOfRange
        );
        assert_eq!(reason(with("01-02-24", "13-02-24")), Reason::NoTime);
        assert_eq!(reason(with("01-02-24", "01-2-24")), Reason::NoTime);
        assert_eq!(reason(with("2024-01-02 03:04:06", "soon")), Reason::NoTime);
        for time in ["24:00:00", "3:04:05", "03:04", "03:04:05:06", "soon"] {
            let line = format!("A,R,S,,,,01-02-24,{time},REGULAR,1,2");
            assert_eq!(refused(&line).0, Reason::NoTime, "{time}");
        }
        assert_eq!(reason(with("A001", "")), Reason::NoKey);
        assert_eq!(
            reason(with("Test-Station1", &"x".repeat(32))),
            Reason::TooLong
        );
        let rejected = decoded_in(&Zone::UTC, b"A001,\xff").expect_err("not UTF-8");
        assert!(rejected.detail.contains("UTF-8"));
    }
}
