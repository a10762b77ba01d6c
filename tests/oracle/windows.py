#!/usr/bin/env python3
"""The windows of the pipelines `cars`, `factory` and `fleet`, computed a second time.

An independent opinion for the engine's tests: it shares no code with the engine, reads the whole
input at once, and leaves the windowing to a database (DuckDB). Each file is one partition, its
lines are in offset order.

The rule, per partition, with event times t_j in offset order and i counting good records only:

    w_i   = max over j < i of t_j, minus wait        (none for the first record)
    tau_i = max(t_i, w_i)

Record i is in every window [s, e) with s <= t_i < e and tau_i < e ("on time"), or with
e <= tau_i < e + keep ("late, kept"). What a window holds at the end is printed, one JSON object a
line, ordered by window_end, window_start and key. Files' ledgers go to standard error.

What is a record. A line is rejected, and moves no watermark, when it is no JSON object, when its
time or key is missing, or when a field that the windows use has the wrong type (an integer written
as 3.0, NaN, a number beyond f64 or i64); of fleet any field that the pipeline reads, and a coordinate may
be NaN, which is a null. A null or missing measurement is a null. Blank lines are
not records. Times: RFC 3339, 0 to 9 fraction digits cut to milliseconds, without an offset UTC.
Not covered: --max-ahead, repeated keys inside one JSON object, dimensions refreshed while running.
"""

import argparse
import csv
import glob
import gzip
import io
import json
import multiprocessing
import os
import re
import sys
import tempfile
from datetime import datetime, timedelta, timezone
from fractions import Fraction

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

BATCH_LINES = 200_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d\d):?(\d\d))?", re.ASCII
)


class Rejected(Exception):
    """A line that is no record."""


# ---------------------------------------------------------------------------- lines to records


def day_ms(text, seen={}):
    """Midnight of a day, in milliseconds since 1970. Few days occur, so they are remembered."""
    if text not in seen:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=timezone.utc)
        seen[text] = (day - EPOCH).days * 86_400_000
    return seen[text]


def time_ms(text):
    """Milliseconds since 1970 of an RFC 3339 time."""
    if not isinstance(text, str):
        raise Rejected("no time")
    match = TIME.fullmatch(text)
    if not match:
        raise Rejected("not a time")
    day, hour, minute, second, fraction, _, sign, zone_hour, zone_minute = match.groups()
    hour, minute, second = int(hour), int(minute), int(second)
    if hour > 23 or minute > 59 or second > 60:
        raise Rejected("not a time of day")
    try:
        ms = day_ms(day)
    except ValueError:
        raise Rejected("not a date") from None
    # A leap second counts as the last second of its minute.
    ms += ((hour * 60 + minute) * 60 + min(second, 59)) * 1000
    if fraction:
        ms += int(fraction[:3].ljust(3, "0"))
    if sign:
        zone = int(zone_hour) * 60 + int(zone_minute)
        ms += zone * 60_000 * (-1 if sign == "+" else 1)
    return ms


def integer(value):
    """An integer of 64 bits, or null."""
    if value is None or (type(value) is int and -(2**63) <= value < 2**63):
        return value
    raise Rejected("not an integer")


def real(value):
    """A finite number, or null."""
    if value is None:
        return None
    if type(value) not in (int, float):
        raise Rejected("not a number")
    try:
        value = float(value)
    except OverflowError:
        raise Rejected("too large") from None
    if value - value != 0.0:
        raise Rejected("too large")
    return value


def not_json(token):
    raise Rejected(f"{token} is not JSON")


def nan_only(token):
    return NAN if token == "NaN" else not_json(token)


def car_row(event):
    time = time_ms(event.get("event_time"))
    car = event.get("car_id")
    if isinstance(car, str) and car.isascii() and car.isdigit():
        car = int(car)
    if integer(car) is None:
        raise Rejected("no key")
    if not isinstance(event.get("event_id"), (str, type(None))):
        raise Rejected("event_id is not text")
    return time, car, real(event.get("speed")), integer(event.get("rpm")), integer(event.get("gear"))


def factory_row(event):
    text = event.get("ts")
    time = time_ms(event.get("event_ts") if text is None else text)
    device = event.get("device_id")
    if not isinstance(device, str) or not device:
        raise Rejected("no key")
    return time, device, real(event.get("temperature_c")), real(event.get("vibration_g"))


NAN = object()

FLEET_TEXTS = ["event_type", "weather", "road_type", "traffic_density"]
FLEET_FLAGS = [
    "braking_event", "harsh_acceleration_event", "collision_alert", "sensor_fault_event",
    "lane_change_event", "network_delay_event", "gps_loss_event", "risk_label",
]  # fmt: skip


def short_text(value):
    """A text that fits into a field of 23 bytes, or null."""
    if value is None or (isinstance(value, str) and len(value.encode()) < 24):
        return value
    raise Rejected("not a short text")


def flag(value):
    """True, false, or null."""
    if value is None or type(value) is bool:
        return value
    raise Rejected("not a flag")


def fleet_row(event):
    for name in ("latitude", "longitude"):
        if event.get(name) is NAN:
            event[name] = None
    if NAN in event.values():
        raise Rejected("NaN is not JSON here")
    time = time_ms(event.get("timestamp"))
    vehicle = short_text(event.get("vehicle_id"))
    if not vehicle:
        raise Rejected("no key")
    for name in FLEET_TEXTS:
        short_text(event.get(name))
    for name in ("latitude", "longitude", "sensor_battery"):
        real(event.get(name))
    for name in ("hour_of_day", "sensor_signal_strength"):
        integer(event.get(name))
    flags = [flag(event.get(name)) for name in FLEET_FLAGS]
    return time, vehicle, real(event.get("speed")), *flags[:4]


def out_of_range(row):
    """Quarantined by the pipeline: -50 and 150 degrees are out of range themselves."""
    _, _, temperature, vibration = row
    return (temperature is not None and not -50 < temperature < 150) or (vibration is not None and vibration < 0)


LAYOUTS = {
    "cars": (car_row, [("car_id", pa.int64()), ("speed", pa.float64()), ("rpm", pa.int64()), ("gear", pa.int64())]),
    "factory": (
        factory_row,
        [("device_id", pa.string()), ("temperature_c", pa.float64()), ("vibration_g", pa.float64())],
    ),
    "fleet": (
        fleet_row,
        [("vehicle_id", pa.string()), ("speed", pa.float64()), *((name, pa.bool_()) for name in FLEET_FLAGS[:4])],
    ),
}


def lines_of(path):
    if path.endswith(".gz"):
        return gzip.open(path, "rb")
    if path.endswith(".zst"):
        return io.BufferedReader(pa.input_stream(path, compression="zstd"))
    return open(path, "rb", buffering=1 << 20)


def decode_file(task):
    """Writes the records of one file as Parquet; returns how many lines and rejects it had."""
    pipeline, part, path, target, reject_out_of_range = task
    row_of, columns = LAYOUTS[pipeline]
    schema = pa.schema([("part", pa.int32()), ("pos", pa.int64()), ("t", pa.int64()), *columns])
    loads = json.JSONDecoder(parse_constant=nan_only if pipeline == "fleet" else not_json).decode
    read = rejected = pos = 0
    rows = []

    def flush(writer):
        if rows:
            start = pos - len(rows)
            arrays = [pa.array([part] * len(rows), pa.int32()), pa.array(range(start, pos), pa.int64())]
            arrays += [pa.array(c, schema.field(i + 2).type) for i, c in enumerate(zip(*rows))]
            writer.write_table(pa.table(arrays, schema=schema))
            rows.clear()

    with lines_of(path) as lines, pq.ParquetWriter(target, schema, compression="lz4") as writer:
        for line in lines:
            if line.isspace():
                continue
            read += 1
            try:
                event = loads(line.decode())
                if type(event) is not dict:
                    raise Rejected("not an object")
                row = row_of(event)
                if reject_out_of_range and out_of_range(row):
                    raise Rejected("out of range")
            except (Rejected, ValueError, RecursionError):
                rejected += 1
                continue
            rows.append(row)
            pos += 1
            if len(rows) == BATCH_LINES:
                flush(writer)
        flush(writer)
    return read, rejected


def load(database, args, folder):
    """Makes the table `records` and returns (path, lines, rejects) of each file."""
    paths = sorted(path for pattern in args.inputs for path in glob.glob(pattern, recursive=True))
    if not paths:
        sys.exit(f"windows.py: no file matches {' '.join(args.inputs)}")
    reject = args.pipeline == "factory" and args.out_of_range == "rejected"
    tasks = [
        (args.pipeline, part, path, os.path.join(folder, f"{part:06}.parquet"), reject)
        for part, path in enumerate(paths)
    ]
    jobs = min(len(tasks), os.cpu_count() or 1)
    small = sum(map(os.path.getsize, paths)) < 1 << 20
    if jobs == 1 or small:
        counts = [decode_file(task) for task in tasks]
    else:
        with multiprocessing.Pool(jobs) as pool:
            counts = pool.map(decode_file, tasks, chunksize=1)
    files = [task[3] for task in tasks]
    database.execute("CREATE VIEW records AS SELECT * FROM read_parquet($files)".replace("$files", sql_list(files)))
    return [(path, *count) for path, count in zip(paths, counts)]


def sql_list(texts):
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


# --------------------------------------------------------------------------------- dimensions


def csv_rows(folder, name):
    with open(os.path.join(folder, name), newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load_dims(database, folder):
    colors = {row["color_id"]: row["color_name"] for row in csv_rows(folder, "colors.csv")}
    cars = csv_rows(folder, "cars.csv")
    always = -(2**62)  # without valid_from a row holds at any time
    valid_from = [time_ms(row["valid_from"]) if row.get("valid_from") else always for row in cars]
    dims = pa.table(
        {
            "car_id": pa.array([int(row["car_id"]) for row in cars], pa.int64()),
            "valid_from": pa.array(valid_from, pa.int64()),
            "color": pa.array([colors.get(row["color_id"]) for row in cars], pa.string()),
        }
    )
    database.register("dims_arrow", dims)
    database.execute("CREATE TABLE dims AS SELECT * FROM dims_arrow")


# ------------------------------------------------------------------------------------ windows

# DuckDB's % takes the sign of the dividend; windows before 1970 need the floor.
FLOOR = "({x} - ((({x}) % {n}) + {n}) % {n})"


def assign(database, args):
    """From `timed` (part, pos, t, tau, counted, ...) to `pairs`: one row per record and window,
    with its fate, and a row without a window for a record in none."""
    size, slide, offset = args.window_ms, args.slide_ms or args.window_ms, args.offset_ms
    last = f"{FLOOR.format(x=f't - {offset}', n=slide)} + {offset}"
    steps = -(-size // slide)
    database.execute(f"""
        CREATE VIEW pairs AS
        SELECT *, s + {size} AS e,
               CASE WHEN tau < s + {size} THEN 'on_time'
                    WHEN tau < s + {size} + {args.keep_ms} THEN 'late_kept'
                    ELSE 'late' END AS fate
        FROM (SELECT timed.*, {last} - step * {slide} AS s FROM timed, range({steps}) AS steps(step) WHERE counted)
        WHERE s <= t AND t < s + {size}
    """)


def timed_query(args, columns, source, counted):
    """Adds the effect time tau. The watermark counts every record, also those not counted."""
    return f"""
        CREATE TABLE timed AS
        SELECT part, pos, t, greatest(t, coalesce(high - {args.wait_ms}, t)) AS tau, {counted} AS counted, {columns}
        FROM (
            SELECT *, max(t) OVER (
                PARTITION BY part ORDER BY pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS high
            FROM records
        ) AS records {source}
    """


def prepare_cars(database, args):
    load_dims(database, args.dims)
    x = "(speed / 30)"
    gear = f"(floor{x} + CASE WHEN {x} - floor{x} >= 0.5 THEN 1 ELSE 0 END)"
    if args.gear_rule == "bands":
        bands = " ".join(f"WHEN speed < {30 * gear} THEN {gear}" for gear in range(7))
        gear = f"(CASE WHEN speed IS NULL THEN NULL {bands} ELSE 7 END)"
    alert = f"coalesce(speed > 120, false) OR coalesce(rpm > 6000, false) OR coalesce(gear <> {gear}, false)"
    known = "true" if args.unmatched == "keep" else "dims.car_id IS NOT NULL"
    # The latest row valid at the event's own time.
    source = "ASOF LEFT JOIN dims ON records.car_id = dims.car_id AND records.t >= dims.valid_from"
    database.execute(timed_query(args, "speed, rpm, gear, color", source, f"({alert}) AND {known}"))


def cars_windows(database):
    rows = database.execute("""
        SELECT s, e, count(*), count(*) FILTER (color = 'Black'), count(*) FILTER (color = 'White'),
               count(*) FILTER (color = 'Silver'), max(speed), max(gear), max(rpm)
        FROM pairs WHERE fate <> 'late' GROUP BY s, e ORDER BY e, s
    """)
    names = "num_of_rows num_of_black num_of_white num_of_silver maximum_speed maximum_gear maximum_rpm".split()
    for s, e, *values in rows.fetchall():
        yield {"window_start": time_text(s), "window_end": time_text(e), **dict(zip(names, values))}


def prepare_factory(database, args):
    valid = "coalesce(temperature_c > -50 AND temperature_c < 150, true) AND coalesce(vibration_g >= 0, true)"
    database.execute(timed_query(args, "device_id, temperature_c, vibration_g", "", valid))


def exact_mean(values):
    """The mean of 64-bit fixed-point values, rounded once: free of the order of addition."""
    if not values:
        return None
    return float(Fraction(sum(int(value * 2.0**64) for value in values), len(values) << 64))


def factory_windows(database):
    rows = database.execute("""
        SELECT s, e, device_id, count(*), max(vibration_g),
               coalesce(list(temperature_c) FILTER (temperature_c IS NOT NULL), [])
        FROM pairs WHERE fate <> 'late' GROUP BY s, e, device_id ORDER BY e, s, encode(device_id)
    """)
    while batch := rows.fetchmany(10_000):
        for s, e, device, count, vibration, temperatures in batch:
            yield {
                "device_id": device,
                "n_events": count,
                "avg_temperature_c": exact_mean(temperatures),
                "max_vibration_g": vibration,
                "window_start": time_text(s),
                "window_end": time_text(e),
            }


def prepare_fleet(database, args):
    columns = ", ".join(["vehicle_id", "speed", *FLEET_FLAGS[:4]])
    database.execute(timed_query(args, columns, "", "coalesce(speed > 50, false)"))


def fleet_windows(database):
    rows = database.execute("""
        SELECT s, e, vehicle_id, count(*), list(speed), max(speed),
               count(*) FILTER (braking_event), count(*) FILTER (harsh_acceleration_event),
               count(*) FILTER (collision_alert), count(*) FILTER (sensor_fault_event)
        FROM pairs WHERE fate <> 'late' GROUP BY s, e, vehicle_id ORDER BY e, s, encode(vehicle_id)
    """)
    names = "max_speed braking_count harsh_acceleration_count collision_count sensor_fault_count".split()
    while batch := rows.fetchmany(10_000):
        for s, e, vehicle, count, speeds, *values in batch:
            yield {
                "vehicle_id": vehicle,
                "window_start": time_text(s),
                "window_end": time_text(e),
                "event_count": count,
                "avg_speed": exact_mean(speeds),
                **dict(zip(names, values)),
            }


def time_text(ms):
    time = EPOCH + timedelta(milliseconds=ms)
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03}Z"


def ledger(database, files):
    """One fate per record: with overlapping windows the best; missed windows are counted apart."""
    counts = database.execute("""
        WITH fates AS (
            SELECT part, pos, bool_or(fate = 'on_time') AS on_time, bool_or(fate = 'late_kept') AS late_kept,
                   count(*) FILTER (fate = 'late') AS missed
            FROM pairs GROUP BY part, pos
        )
        SELECT timed.part, count(*) FILTER (NOT counted), count(*) FILTER (counted AND on_time IS NULL),
               count(*) FILTER (on_time), count(*) FILTER (NOT on_time AND late_kept),
               count(*) FILTER (NOT on_time AND NOT late_kept), coalesce(sum(missed), 0)::BIGINT
        FROM timed LEFT JOIN fates USING (part, pos) GROUP BY timed.part
    """)
    by_part = {part: fates for part, *fates in counts.fetchall()}
    names = "filtered no_window on_time late_kept late late_windows".split()
    for part, (path, read, rejected) in enumerate(files):
        fates = by_part.get(part, [0] * len(names))
        assert read == rejected + sum(fates[:-1]), f"the oracle lost records of {path}"
        yield {"file": path, "read": read, "rejected": rejected, **dict(zip(names, fates))}


def arguments():
    parser = argparse.ArgumentParser(
        description="Windows of cars, factory and fleet, computed independently of the engine. One file is one partition."
    )
    parser.add_argument("inputs", nargs="+", help="NDJSON files or globs; .gz and .zst are read as such")
    parser.add_argument("--pipeline", choices=LAYOUTS, default="cars")
    parser.add_argument("--dims", help="cars: the folder with models.csv, colors.csv and cars.csv")
    parser.add_argument("--wait-ms", type=int, required=True)
    parser.add_argument("--keep-ms", type=int, default=0)
    parser.add_argument("--window-ms", type=int, required=True)
    parser.add_argument("--slide-ms", type=int, help="default: the window, which makes it tumbling")
    parser.add_argument("--offset-ms", type=int, default=0)
    parser.add_argument("--gear-rule", choices=["round", "bands"], default="round")
    parser.add_argument("--unmatched", choices=["keep", "drop"], default="keep", help="cars that are in no cars.csv")
    parser.add_argument(
        "--out-of-range",
        choices=["filtered", "rejected"],
        default="filtered",
        help="factory: whether a quarantined record moves the watermark (filtered) or not (rejected)",
    )
    args = parser.parse_args()
    if args.pipeline == "cars" and not args.dims:
        parser.error("--pipeline cars needs --dims")
    if args.window_ms <= 0 or (args.slide_ms is not None and args.slide_ms <= 0):
        parser.error("--window-ms and --slide-ms must be positive")
    return args


def main():
    args = arguments()
    prepare, windows = {
        "cars": (prepare_cars, cars_windows),
        "factory": (prepare_factory, factory_windows),
        "fleet": (prepare_fleet, fleet_windows),
    }[args.pipeline]
    with tempfile.TemporaryDirectory(prefix="highwater-oracle-") as folder:
        database = duckdb.connect(os.path.join(folder, "oracle.duckdb"))
        files = load(database, args, folder)
        prepare(database, args)
        assign(database, args)
        for row in windows(database):
            print(json.dumps(row, separators=(",", ":"), ensure_ascii=False))
        for row in ledger(database, files):
            print(json.dumps(row, separators=(",", ":"), ensure_ascii=False), file=sys.stderr)
        database.close()


if __name__ == "__main__":
    main()
