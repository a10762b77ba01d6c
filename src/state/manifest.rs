//! A manifest: everything that a run goes on from, as of the end of one epoch.
//!
//! It is an entry of the epoch log, so that the put that fences a writer fences its manifests as
//! well, and it is put there only after every sink has committed its epoch.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::frame;
use crate::epoch::Standing;
use crate::ledger::Fates;
use crate::sink::SinkMark;
use crate::source::Partition;
use crate::time::{Epoch, EventTime, Offset};

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Everything up to and with this epoch is in it.
    pub epoch: Epoch,
    /// The border watermark W of that epoch.
    pub watermark: EventTime,
    /// The wall time at which that epoch was opened.
    pub opened_at: EventTime,
    /// The partitions of the input, those found at that border included.
    pub partitions: Vec<PartitionState>,
    /// The objects that hold the state of operators, oldest first: later ones override.
    pub objects: Vec<ObjectRef>,
    /// Where each sink stood, by [`sink_id`](crate::sink::sink_id).
    pub sinks: BTreeMap<String, SinkMark>,
    /// What each output has given since the job began.
    pub outputs: BTreeMap<String, OutputTotals>,
    /// What each output has given in each epoch since the manifest before.
    pub digests: Vec<EpochDigest>,
    /// The load of the dimension tables that is in effect in the next epoch.
    pub dims: u64,
    /// The load that is in the epoch after it, if that is another one.
    pub dims_next: Option<u64>,
    /// Whether the input was declared complete: nothing follows.
    pub is_drained: bool,
}

/// How far a partition was read, and what became of its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionState {
    /// The partition.
    pub partition: Partition,
    /// Where to read on; `None`: it is not known where to begin.
    pub offset: Option<Offset>,
    /// The largest event time read.
    pub max_event: EventTime,
    /// The last floor that was decided for it.
    pub floor: EventTime,
    /// Whether it had a say in the border watermark.
    pub standing: Standing,
    /// The fates of its records since the job began.
    pub fates: Fates,
    /// Offsets that were never delivered.
    pub gaps: u64,
    /// Where the job began to read it.
    pub first_offset: Option<Offset>,
    /// What it begins with; `None`: it was not looked at.
    // Never left out: a manifest also travels between processes, in a format without names.
    #[serde(default)]
    pub head: Option<Head>,
}

/// The beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many bytes of it (decompressed).
    pub bytes: u64,
    /// XXH3 of them.
    pub checksum: Checksum,
}

/// An object that a manifest names, and how it is known to be unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRef {
    /// Its name in the storage.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// XXH3 of all its bytes.
    pub checksum: Checksum,
}

/// What an output has given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputTotals {
    /// Rows.
    pub rows: u64,
    /// Distinct windows, for outputs of windows.
    pub windows: u64,
    /// Encoded bytes.
    pub bytes: u64,
}

/// What an output has given in one epoch: what a replay is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochDigest {
    /// The epoch.
    pub epoch: Epoch,
    /// The output.
    pub output: String,
    /// How many rows.
    pub rows: u64,
    /// What they were, in whatever order.
    pub digest: Digest,
}

/// A 64-bit checksum: 16 hexadecimal digits for people and in JSON, whose numbers many programs
/// round to 53 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checksum(pub u64);

/// An order-free digest of rows: 32 hexadecimal digits for people and in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Checksum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(frame::checksum(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = u64::from_str_radix(&text, 16);
        number.map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let number = u128::from_str_radix(&text, 16);
        number.map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::time::{PartitionId, Shard};

    pub(crate) fn manifest(epoch: u64) -> Manifest {
        let partition = PartitionState {
            partition: Partition {
                id: PartitionId(0),
                name: "cars[0]".to_owned(),
            },
            offset: Some(Offset(10 * (epoch + 1))),
            max_event: EventTime(1000 * epoch as i64),
            floor: EventTime::MIN,
            standing: Standing::Active,
            fates: Fates {
                read: 10 * (epoch + 1),
                on_time: 10 * (epoch + 1),
                ..Fates::default()
            },
            gaps: 0,
            first_offset: Some(Offset(0)),
            head: Some(Head {
                bytes: 10,
                checksum: Checksum(7),
            }),
        };
        let positions = BTreeMap::from([(Shard(0), 17)]);
        Manifest {
            epoch: Epoch(epoch),
            watermark: EventTime(1000 * epoch as i64),
            opened_at: EventTime(1_700_000_000_000 + 250 * (epoch as i64 + 1)),
            partitions: vec![partition],
            objects: Vec::new(),
            sinks: BTreeMap::from([("windows/ndjson-out".to_owned(), SinkMark { positions })]),
            outputs: BTreeMap::from([("windows".to_owned(), OutputTotals::default())]),
            digests: vec![EpochDigest {
                epoch: Epoch(epoch),
                output: "windows".to_owned(),
                rows: 3,
                digest: Digest(u128::MAX - 5),
            }],
            dims: 2,
            dims_next: None,
            is_drained: false,
        }
    }

    #[test]
    fn a_manifest_survives_json() {
        let manifest = manifest(7);
        let text = serde_json::to_string(&manifest).unwrap();
        assert!(
            text.contains("fffffffffffffffffffffffffffffffa"),
            "digests are hexadecimal: {text}"
        );
        let back: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(back, manifest);
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = serde_json::to_string(&manifest(7)).unwrap();
        let more = text.replacen('{', "{\"more\":1,", 1);
        let error = serde_json::from_str::<Manifest>(&more).unwrap_err();
        assert!(error.to_string().contains("more"), "{error}");
    }
}
