//! Tables of Delta Lake, read by others: delta-rs and `DuckDB`.

use crate::state::newest_checkpoint;
use crate::support::cars::generated;
use crate::support::place::Place;
use crate::support::services::{bucket_keys, delta_table, given, python, s3, unique};

const EVENTS: &str = "--events 40_000 --disorder 8s --late-fraction 0.01 --duplicates 0.01 --garbage 0.005 --seed 12";
const SHORT: &str = "--window 1m --wait 5s --epoch 5ms --checkpoint 40ms";

/// A run into tables below `lake`, and into files that are compared with them.
fn run(lake: &str, more: &str) -> String {
    format!(
        "run cars --quiet --from file:in/*.ndjson --dims dir:dims --state state {SHORT} \
         --to windows=delta:{lake}/windows --to enriched=delta:{lake}/enriched --to windows=parquet:w --to enriched=parquet:e {more}"
    )
}

/// The rows of a folder of Parquet, as the script prints rows.
fn parquet(place: &Place, folder: &str) -> Vec<String> {
    let path = place.path(folder).display().to_string();
    let script = "import sys, json, glob, pyarrow.parquet as p\n\
        rows = [row for f in glob.glob(sys.argv[1] + '/**/*.parquet', recursive=True) for row in p.read_table(f, partitioning=None).to_pylist()]\n\
        print('\\n'.join(sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)))";
    let done = python(&["-c".to_owned(), script.to_owned(), path]);
    done.stdout.lines().map(str::to_owned).collect()
}

#[track_caller]
fn assert_table(place: &Place, lake: &str, more: &[&str]) {
    for (output, folder) in [("windows", "w"), ("enriched", "e")] {
        let (rows, about) = delta_table(&format!("{lake}/{output}"), more);
        let want = parquet(place, folder);
        assert!(want.len() > 10, "{output}: {} rows", want.len());
        let differs = rows.iter().zip(&want).find(|(one, other)| one != other);
        assert!(
            rows == want,
            "{output}: {} rows, not {}: {differs:?}",
            rows.len(),
            want.len()
        );
        assert_eq!(about["records_by_statistics"], about["rows"], "{output}");
    }
}

#[test]
#[ignore = "needs python: run dev/test"]
fn oracle_a_table_holds_what_files_hold_after_any_kills() {
    let place = generated(EVENTS);
    for (workers, checkpoints) in [(2, 1), (1, 3), (3, 2), (2, 5), (4, 1), (1, 2)] {
        let mut running = place.start(&run("lake", &format!("--follow -w {workers}")));
        let known = newest_checkpoint(&place);
        running.until("more checkpoints", || {
            (newest_checkpoint(&place) >= known + checkpoints).then_some(())
        });
        running.kill();
    }
    place.ok(&run("lake", "--drain -w 2"));
    let lake = place.path("lake").display().to_string();
    assert_table(&place, &lake, &[]);
    place.ok("state verify state");
    // More than one entry, so that what is read has been put together from several.
    let (_, about) = delta_table(&format!("{lake}/enriched"), &[]);
    assert!(about["version"].as_u64() > Some(1), "{about}");
    // Entries before a checkpoint need not be there any more.
    let log = place.files("lake/enriched/_delta_log");
    if let Some(last) = log
        .iter()
        .rfind(|name| name.ends_with(".checkpoint.parquet"))
    {
        for name in log
            .iter()
            .filter(|name| name.ends_with(".json") && *name < last)
        {
            std::fs::remove_file(place.path("lake/enriched/_delta_log").join(name))
                .expect("removed");
        }
        assert_table(&place, &lake, &[]);
    }
}

#[test]
#[ignore = "needs s3 and python: run dev/test"]
fn s3_oracle_a_table_in_a_bucket() {
    let _server = s3();
    let place = generated(EVENTS);
    let prefix = unique("delta");
    let lake = format!("s3://{}/{prefix}", given("HIGHWATER_TEST_S3_BUCKET"));
    for workers in [2, 1] {
        let mut running = place.start(&run(&lake, &format!("--drain -w {workers}")));
        running.until("a checkpoint", || {
            (!place.files("state/checkpoint").is_empty()).then_some(())
        });
        running.kill();
    }
    place.ok(&run(&lake, "--drain -w 3"));
    assert_table(&place, &lake, &["--storage-options", &bucket_keys()]);
}

#[test]
#[ignore = "needs python: run dev/test"]
fn oracle_a_table_may_have_folders_and_is_replaced_as_a_whole() {
    let place = Place::new();
    let line = |seed: u32, more: &str| {
        format!(
            "run factory --quiet --events 20_000 --seed {seed} --speed max --state state-{seed} \
             --to windows=delta:curated --to quarantine=delta:quarantine --garbage 0.01 {more}"
        )
    };
    place.ok(&line(1, "--drain"));
    let table = place.path("curated").display().to_string();
    let (rows, about) = delta_table(&table, &[]);
    assert_eq!(about["partitions"], serde_json::json!(["date", "hour"]));
    assert!(
        rows.len() > 10 && rows[0].contains("\"date\": \"2024-"),
        "{rows:?}"
    );
    let error = place.run(&line(2, "--drain")).failed_with(4);
    assert!(error.contains("--replace-output"), "{error}");
    place.ok(&line(2, "--drain --fresh --replace-output"));
    let (other, about_it) = delta_table(&table, &[]);
    assert_ne!(rows, other);
    assert!(
        about_it["operations"].to_string().contains("REPLACE"),
        "{about_it}"
    );
    // Readers of an older version still find it.
    let version = about["version"].to_string();
    assert_eq!(delta_table(&table, &["--at", &version]).0, rows);
}
