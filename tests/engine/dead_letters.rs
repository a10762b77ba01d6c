//! Dead letters that come from several operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater::aggregate::{count, sum};
use highwater::flow::{Catalog, Enriched, Flow, Unmatched};
use highwater::join::{Change, DimStore};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::EventTime;

use crate::fixture::{Item, Knobs, Row, Script, decode, try_run};

/// Only keys below 5 are known; the others are dead letters of the join.
struct Known(Arc<DimStore<u8, u8>>);

impl Known {
    fn new() -> Self {
        let store = DimStore::default();
        let row = |key| Change {
            key,
            version: (EventTime::MIN, Some(key)),
            diff: 1,
        };
        store.put(0, (0..5).map(row).collect());
        Self(Arc::new(store))
    }
}

impl Pipeline for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let items = flow.source(decode);
        let known = flow.dimensions(Arc::clone(&self.0));
        let join = |known: &Catalog<'_, u8, u8>, item: &Item| Enriched {
            value: *item,
            is_matched: known.get(&item.key).is_some(),
        };
        let items = items.enrich(flow, known, Unmatched::DeadLetter, join, |item: &Item| {
            item.key.to_string().into_bytes()
        });
        let windows = items.window(
            |item| item.key,
            || (count(), sum(|item: &Item| Some(item.value))),
        );
        flow.windows_output("windows", Layout::Flat, &["key"], &windows, Row::of);
    }
}

/// Within one block the source's own dead letters all come before those of the join; what is
/// written is in the order of the offsets all the same.
#[test]
fn dead_letters_of_two_operators_come_out_in_offset_order() {
    let line = |i: i64| match i % 3 {
        0 => "garbage".to_owned(),
        1 => format!("{i} 8 1"),
        _ => format!("{i} 1 1"),
    };
    let lines: Vec<String> = (0..300).map(line).collect();
    let partitions = [lines.clone(), lines.clone(), lines];
    for workers in [1, 2, 4] {
        let knobs = Knobs::tumbling(10, 0, workers);
        let script = Script::batches(&partitions, 50);
        let outcome = try_run(Arc::new(Known::new()), script, &knobs).expect("the run succeeds");
        let mut offsets: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for line in outcome.dead.lines.lock().unwrap().iter() {
            let (cells, origin) = line.rsplit_once('@').unwrap();
            let (partition, offset) = origin.split_once(':').unwrap();
            let of_partition = offsets.entry(partition.to_owned()).or_default();
            of_partition.push(offset.parse().unwrap());
            let reason = cells.split(' ').nth(3).unwrap();
            *reasons.entry(reason.to_owned()).or_default() += 1;
        }
        assert_eq!(reasons["undecodable"], 300, "{reasons:?}");
        assert_eq!(reasons["unmatched"], 300, "{reasons:?}");
        let expected: Vec<u64> = (0..300).filter(|offset| offset % 3 != 2).collect();
        for found in offsets.values() {
            assert_eq!(found, &expected);
        }
        assert_eq!(offsets.len(), 3);
        for fates in outcome.fates().values() {
            assert_eq!((fates.rejected, fates.on_time), (200, 100));
        }
    }
}
