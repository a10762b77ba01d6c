//! Counters that go on from reading to reading: what has passed in between.

use highwater::rows::{Column, ColumnType, RowWriter, Tabular};
use highwater::window::Successive;
use serde::{Deserialize, Serialize};

use super::event::{Passage, Reading};

/// More cannot pass between two readings.
const MOST: i64 = 10_000;

/// A reading, and how far its counters have moved since the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The reading.
    pub reading: Reading,
    /// By which the counter of entries has moved.
    pub entries: i64,
    /// By which the counter of exits has moved.
    pub exits: i64,
}

highwater::fixed_layout!(Delta {
    reading,
    entries,
    exits,
});

/// Why a delta is in quarantine: what is wrong with the entries, or if nothing is, with the exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The counter of entries was reset, or runs backwards.
    Negative,
    /// The counter of entries has jumped.
    TooLarge,
    /// The counter of exits alone was reset, or runs backwards.
    NegativeExits,
    /// The counter of exits alone has jumped.
    TooLargeExits,
}

impl Fault {
    /// The word used in outputs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Negative => "negative",
            Self::TooLarge => "too_large",
            Self::NegativeExits => "negative_exits",
            Self::TooLargeExits => "too_large_exits",
        }
    }
}

impl Delta {
    /// Between two readings; nothing where there is only one.
    pub fn of(pair: &Successive<Reading>) -> Self {
        let (reading, before) = (pair.current, pair.previous.unwrap_or(pair.current));
        // Counters are not negative, so that their difference is a number.
        Self {
            reading,
            entries: reading.entries - before.entries,
            exits: reading.exits - before.exits,
        }
    }

    /// What is wrong with it, if anything.
    pub const fn fault(&self) -> Option<Fault> {
        match (self.entries, self.exits) {
            (..0, _) => Some(Fault::Negative),
            (entries, _) if entries > MOST => Some(Fault::TooLarge),
            (_, ..0) => Some(Fault::NegativeExits),
            (_, exits) if exits > MOST => Some(Fault::TooLargeExits),
            _ => None,
        }
    }

    /// Who has passed, on the day and with the kind of the later reading.
    pub const fn passage(&self) -> Passage {
        Passage {
            group: self.reading.group,
            entries: self.entries,
            exits: self.exits,
        }
    }
}

/// A delta in quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quarantined(pub Delta);

highwater::fixed_layout!(Quarantined { 0 });

impl Tabular for Quarantined {
    fn columns() -> Vec<Column> {
        let mut columns = vec![Column::new("reason", ColumnType::Text)];
        columns.extend(Reading::columns());
        columns.push(Column::new("ENTRIES_DELTA", ColumnType::Int));
        columns.push(Column::new("EXITS_DELTA", ColumnType::Int));
        columns
    }

    fn write(&self, row: &mut RowWriter<'_>) {
        row.text(self.0.fault().map_or("", Fault::as_str));
        self.0.reading.write(row);
        row.int(self.0.entries);
        row.int(self.0.exits);
    }

    fn message_key(&self, key: &mut Vec<u8>) {
        self.0.reading.message_key(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(before: Option<(i64, i64)>, now: (i64, i64)) -> Delta {
        let reading = |(entries, exits)| Reading {
            entries,
            exits,
            ..Reading::default()
        };
        Delta::of(&Successive {
            previous: before.map(reading),
            current: reading(now),
        })
    }

    #[test]
    fn the_limits_of_what_is_plausible() {
        let fault = |before, now| delta(Some(before), now).fault();
        assert_eq!(fault((5, 5), (5, 5)), None);
        assert_eq!(fault((0, 0), (10_000, 10_000)), None);
        assert_eq!(fault((0, 0), (10_001, 0)), Some(Fault::TooLarge));
        assert_eq!(fault((0, 0), (0, 10_001)), Some(Fault::TooLargeExits));
        assert_eq!(fault((1, 0), (0, 0)), Some(Fault::Negative));
        assert_eq!(fault((0, 1), (0, 0)), Some(Fault::NegativeExits));
        assert_eq!(fault((1, 1), (0, 0)), Some(Fault::Negative));
        assert_eq!(fault((0, 1), (99_999, 0)), Some(Fault::TooLarge));
        assert_eq!(fault((i64::MAX, 0), (0, i64::MAX)), Some(Fault::Negative));
    }

    #[test]
    fn what_has_passed_is_the_difference() {
        let passage = delta(Some((100, 40)), (107, 49)).passage();
        assert_eq!((passage.entries, passage.exits), (7, 9));
        let first = delta(None, (107, 49));
        assert_eq!((first.entries, first.exits), (0, 0));
    }
}
