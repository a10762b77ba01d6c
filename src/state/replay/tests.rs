use std::sync::Arc;

use super::*;
use crate::state::MemoryStorage;
use crate::state::retention::History;
use crate::state::retention::tests::Run;
use crate::state::testing::sample;

/// A job with so many checkpoints, ten epochs each.
fn state(checkpoints: usize, history: History) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::default());
    let mut run = Run::start(&storage, history);
    for _ in 0..checkpoints {
        run.ten_epochs();
        run.clean_up();
    }
    storage
}

fn begun(storage: &MemoryStorage, from: Option<u64>) -> Begun {
    begin(storage, from.map(Epoch)).unwrap().unwrap()
}

fn starts(recording: &Recording) -> Vec<Option<u64>> {
    let epoch = |start: &Option<Manifest>| start.as_ref().map(|it| it.epoch.0);
    recording.starts.iter().map(epoch).collect()
}

fn after(begun: &Begun) -> Option<u64> {
    begun.after.as_ref().map(|it| it.epoch.0)
}

fn refusal(storage: &MemoryStorage, from: Option<u64>) -> String {
    begin(storage, from.map(Epoch)).unwrap_err().to_string()
}

#[test]
fn a_replay_begins_as_early_as_operators_and_epochs_are_known() {
    // The checkpoint of epoch 39 holds everything: the objects before it are gone.
    let all = state(5, History::All);
    let recording = Recording::read(&*all).unwrap().unwrap();
    assert_eq!(starts(&recording), [None, Some(39)]);
    assert_eq!(
        (recording.last(), recording.unaccounted()),
        (Some(Epoch(49)), 0)
    );
    for (from, expected) in [
        (None, None),
        (Some(0), None),
        (Some(39), None),
        (Some(40), Some(39)),
        (Some(49), Some(39)),
    ] {
        assert_eq!(after(&begun(&all, from)), expected, "{from:?}");
    }
    assert!(refusal(&all, Some(50)).contains("the last is 49"));
    assert_eq!(begun(&all, Some(40)).restored.len(), 1);
}

#[test]
fn where_history_was_cut_it_begins_later() {
    // Twenty epochs are 5 s.
    let storage = state(9, History::For(crate::time::Span::seconds(5)));
    let begun = begun(&storage, None);
    let first = after(&begun).unwrap() + 1;
    assert!((20..70).contains(&first), "{first}");
    let epochs = begun.recording.epochs(after(&begun).map(Epoch), Epoch(89));
    assert_eq!(epochs.len() as u64, 90 - first);
    let early = refusal(&storage, Some(first - 1));
    assert!(early.contains("no longer kept"), "{early}");
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_reason() {
    assert!(begin(&MemoryStorage::default(), None).unwrap().is_none());
    let none = refusal(&state(3, History::None), None);
    assert!(none.contains("--history 7d"), "{none}");
    let storage = Arc::new(MemoryStorage::default());
    drop(Run::start(&storage, History::All));
    let young = refusal(&storage, None);
    assert!(young.contains("no checkpoint is complete"), "{young}");
}

#[test]
fn a_start_that_is_damaged_is_named() {
    let storage = state(5, History::All);
    let name = storage.list("checkpoint/").unwrap()[0].clone();
    assert!(name.contains("39-"), "{name}");
    storage.objects().get_mut(&name).unwrap()[50] ^= 1;
    // The beginning needs no object.
    assert_eq!(after(&begun(&storage, None)), None);
    let error = refusal(&storage, Some(45));
    assert!(error.contains(&name), "{error}");
}

#[test]
fn slices_end_at_checkpoints_and_where_the_sinks_become_others() {
    let storage = state(4, History::All);
    let mut recording = Recording::read(&*storage).unwrap().unwrap();
    let lasts = |recording: &Recording, after: Option<u64>, until: Option<u64>, most| {
        let slices = recording.slices(after.map(Epoch), until.map(Epoch), most);
        slices.iter().map(|it| it.last.0).collect::<Vec<_>>()
    };
    assert_eq!(lasts(&recording, None, None, 1000), [39]);
    assert_eq!(lasts(&recording, None, None, 20), [19, 39]);
    assert_eq!(lasts(&recording, None, None, 1), [9, 19, 29, 39]);
    assert_eq!(lasts(&recording, Some(9), None, 20), [29, 39]);
    assert_eq!(lasts(&recording, Some(9), Some(19), 1000), [19]);
    assert_eq!(lasts(&recording, None, Some(11), 1000), [19]);
    assert_eq!(lasts(&recording, Some(39), None, 1000), [0; 0]);
    let manifest = recording.manifests.get_mut(&Epoch(29)).unwrap();
    let mark = manifest.sinks.values().next().unwrap().clone();
    manifest.sinks = [("windows/parquet-lake".to_owned(), mark)].into();
    assert_eq!(lasts(&recording, None, None, 1000), [19, 29, 39]);
    let kinds: Vec<_> = recording.slices(None, None, 1000);
    assert!(kinds[1].outputs["windows"] && !kinds[0].outputs["windows"]);
}

#[test]
fn each_output_and_epoch_is_compared_and_what_differs_is_named() {
    let storage = sample();
    let recording = Recording::read(&*storage).unwrap().unwrap();
    let manifest = |epoch| recording.manifest(Epoch(epoch)).unwrap().clone();
    let mut equal = Comparison::new(&recording, None);
    equal.take(&manifest(9));
    equal.take(&manifest(19));
    assert_eq!((equal.epochs, equal.count), (20, 0));
    let compared = equal.outputs["windows"];
    assert_eq!((compared.epochs, compared.rows), (2, 6));
    assert_eq!(equal.next(), Epoch(20));

    let mut other = Comparison::new(&recording, None);
    let (mut first, mut second) = (manifest(9), manifest(19));
    first.digests[0].rows = 4;
    // One more epoch with rows, one row that is another, and a record with another fate.
    second.digests[0].digest.0 ^= 1;
    let mut more = second.digests[0].clone();
    more.epoch = Epoch(15);
    second.digests.push(more);
    second.partitions[0].fates.late_dropped += 1;
    other.take(&first);
    other.take(&second);
    assert_eq!((other.count, other.differences.len()), (4, 4));
    assert_eq!(other.outputs["windows"].differences, 3);
    let epochs: Vec<_> = other
        .differences
        .iter()
        .map(|it| match it {
            Difference::Output { epoch, .. } | Difference::Ledger { epoch, .. } => epoch.0,
            Difference::Input { .. } => panic!("{it:?}"),
        })
        .collect();
    assert_eq!(epochs, [9, 15, 19, 19]);
    let Difference::Output {
        recorded, replayed, ..
    } = &other.differences[0]
    else {
        panic!("{:?}", other.differences);
    };
    assert_eq!((recorded.rows, replayed.rows), (3, 4));
}

#[test]
fn without_its_manifest_an_epoch_is_not_compared() {
    let storage = sample();
    let mut recording = Recording::read(&*storage).unwrap().unwrap();
    let manifests = [9, 19].map(|epoch| recording.manifest(Epoch(epoch)).unwrap().clone());
    recording.manifests.remove(&Epoch(9));
    let mut comparison = Comparison::new(&recording, None);
    manifests.iter().for_each(|it| comparison.take(it));
    assert_eq!((comparison.epochs, comparison.unrecorded), (10, 10));
    assert_eq!(comparison.count, 0);
}

#[test]
fn a_replay_has_ended_only_when_all_was_run_and_something_compared() {
    let storage = sample();
    let mut recording = Recording::read(&*storage).unwrap().unwrap();
    let manifests = [9, 19].map(|epoch| recording.manifest(Epoch(epoch)).unwrap().clone());
    let last = Epoch(19);
    let mut comparison = Comparison::new(&recording, None);
    assert!(!comparison.covers(last));
    comparison.take(&manifests[0]);
    assert!(comparison.covers(Epoch(9)) && !comparison.covers(Epoch(10)));
    comparison.take(&manifests[1]);
    assert!(comparison.covers(last));
    // Run, but with nothing to compare with.
    recording.manifests.clear();
    let mut comparison = Comparison::new(&recording, None);
    manifests.iter().for_each(|it| comparison.take(it));
    assert!(!comparison.covers(last));
}

#[test]
fn rows_that_are_missing_differ_as_well() {
    let storage = sample();
    let recording = Recording::read(&*storage).unwrap().unwrap();
    let mut manifest = recording.manifest(Epoch(9)).unwrap().clone();
    manifest.digests.clear();
    let mut comparison = Comparison::new(&recording, None);
    comparison.take(&manifest);
    assert_eq!(comparison.count, 1);
}
