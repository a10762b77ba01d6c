//! Memory does not grow with the input.

use crate::support::place::Place;

/// What a run of so many events needs at most, in bytes.
fn peak(place: &Place, events: u64) -> i64 {
    place.ok(&format!(
        "run cars --quiet --events {events} --disorder 10s --speed max -w 2 --to null: --report report.json"
    ));
    place.report("report.json")["peak_rss_bytes"]
        .as_i64()
        .expect("a number")
}

#[test]
fn ten_times_the_input_needs_no_more_memory() {
    let place = Place::new();
    let (few, many) = (peak(&place, 300_000), peak(&place, 3_000_000));
    assert!(few > 1 << 20, "it is measured: {few}");
    assert!(
        many - few < 10 << 20,
        "{few} bytes for 300,000 events, {many} for 3,000,000"
    );
}
