//! What must come out, computed record by record from the definitions; no code of the engine.

use std::collections::BTreeMap;

/// How a record of the oracle fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub read: u64,
    pub rejected: u64,
    pub skipped: u64,
    pub filtered: u64,
    pub no_window: u64,
    pub on_time: u64,
    pub kept: u64,
    pub late: u64,
    pub late_windows: u64,
}

pub struct Shape {
    pub size: i64,
    pub slide: i64,
    pub offset: i64,
    pub wait: i64,
    pub keep: i64,
}

/// Windows by (end, start, key) with count and sum, and the counts of each partition.
pub fn windows(
    partitions: &[Vec<String>],
    shape: &Shape,
) -> (BTreeMap<(i64, i64, u8), (u64, f64)>, Vec<Counts>) {
    let mut windows: BTreeMap<(i64, i64, u8), (u64, Vec<f64>)> = BTreeMap::new();
    let mut all = Vec::new();
    for lines in partitions {
        let mut counts = Counts::default();
        let mut max: Option<i64> = None;
        for line in lines {
            counts.read += 1;
            if line == "header" {
                counts.skipped += 1;
                continue;
            }
            let parts: Vec<&str> = line.split(' ').collect();
            let parsed = (parts.len() >= 3)
                .then(|| {
                    Some((
                        parts[0].parse::<i64>().ok()?,
                        parts[1].parse::<u8>().ok()?,
                        parts[2].parse::<f64>().ok()?,
                    ))
                })
                .flatten();
            let Some((t, key, value)) = parsed else {
                counts.rejected += 1;
                continue;
            };
            let tau = max.map_or(t, |max| t.max(max - shape.wait));
            max = Some(max.map_or(t, |max| max.max(t)));
            if key == 9 {
                counts.filtered += 1;
                continue;
            }
            let (mut any, mut on_time, mut kept) = (false, false, false);
            // All n with n * slide + offset <= t < n * slide + offset + size.
            let mut start = (t - shape.offset).div_euclid(shape.slide) * shape.slide + shape.offset;
            while start + shape.size > t {
                any = true;
                let end = start + shape.size;
                if tau < end + shape.keep {
                    on_time |= tau < end;
                    kept |= tau >= end;
                    let window = windows.entry((end, start, key)).or_default();
                    window.0 += 1;
                    window.1.push(value);
                } else {
                    counts.late_windows += 1;
                }
                start -= shape.slide;
            }
            match (any, on_time, kept) {
                (false, _, _) => counts.no_window += 1,
                (_, true, _) => counts.on_time += 1,
                (_, _, true) => counts.kept += 1,
                _ => counts.late += 1,
            }
        }
        all.push(counts);
    }
    let sums = windows.into_iter().map(|(window, (count, mut values))| {
        // The values of the tests are multiples of 1/8 of moderate size: any order gives this sum.
        values.sort_by(f64::total_cmp);
        (window, (count, values.iter().sum()))
    });
    (sums.collect(), all)
}
