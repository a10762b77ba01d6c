#!/usr/bin/env python3
"""The sums of the pipeline `turnstile`, computed a second time, compared with a lake of CSV.

An independent opinion for the engine's tests: it shares no code with the engine and leaves the
arithmetic to a database (DuckDB), which also reads the lake: all its files as one external table.

    turnstile.py delta INPUT LAKE --wait-ms N
    turnstile.py cumulative INPUT LAKE [--quarantine DIR]

`delta`: INPUT are files of messages with all thirteen columns and times in UTC, each file a
partition. With tau the larger of a reading's time and the largest time before it in its partition
less the wait, a reading is on time when tau lies before the end of its window of five minutes. A
reading (id, station, time) counts once, if any copy of it is on time.

`cumulative`: INPUT is a weekly file of cumulative counters. Each reading less the one before it of
the same turnstile (CA, UNIT, SCP), in the order of times and, where they are equal, of lines. What is
negative or above 10,000 belongs to the quarantine: `negative` or `too_large` by its entries, and
`negative_exits` or `too_large_exits` where only its exits are.

Prints what was compared as JSON; exits with 1 when there is a difference.
"""

import argparse
import glob
import json
import pathlib
import sys

import duckdb
import pyarrow

GROUP = '"CA", "UNIT", "SCP", "STATION", "LINENAME", "DIVISION", "DATE", "TIME", "DESC"'
WINDOW_MS = 300_000

# Where the documentation's own lake lies.
DOCUMENTED_LAKE = "'lake/turnstile/*.csv.gz'"


def documented():
    """The two statements in the documentation: the lake as one external table, and a query on it."""
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "turnstile.md"
    block = page.read_text(encoding="utf-8").split("```sql\n")[1].split("```")[0]
    table, query, rest = block.split(";")
    assert DOCUMENTED_LAKE in table and not rest.strip()
    return table, query


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def messages(pattern):
    """Rows (partition, number, thirteen texts) of all messages that are readings."""
    for partition, path in enumerate(sorted(glob.glob(pattern))):
        with open(path, "rb") as lines:
            for number, line in enumerate(lines):
                try:
                    fields = json.loads(line)
                except ValueError:
                    continue
                fields = fields.split(",") if isinstance(fields, str) else []
                if len(fields) == 13 and fields[0] != "CA":
                    yield [partition, number, *fields]


def expect_deltas(database, pattern, wait_ms):
    names = [f"c{at}" for at in range(13)]
    database.execute(
        f"CREATE TABLE raw (part INTEGER, n INTEGER, {', '.join(name + ' VARCHAR' for name in names)})"
    )
    columns = list(zip(*messages(pattern))) or [[]] * 15
    # In one statement: row by row it takes as long as everything else together.
    rows = pyarrow.table(dict(zip(["part", "n", *names], columns)))
    database.register("messages", rows)
    database.execute("INSERT INTO raw SELECT * FROM messages")
    database.execute(
        f"""
        CREATE TABLE timed AS
        SELECT *, epoch_ms(strptime(c12, '%Y-%m-%d %H:%M:%S')) AS t FROM raw;
        CREATE TABLE placed AS
        SELECT *, greatest(t, coalesce(max(t) OVER (PARTITION BY part ORDER BY n
                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - {wait_ms}, t)) AS tau,
               (t // {WINDOW_MS} + 1) * {WINDOW_MS} AS ends
        FROM timed;
        CREATE TABLE once AS
        SELECT DISTINCT ON (c11, c3, t) * FROM placed WHERE tau < ends ORDER BY part, n;
        CREATE TABLE expected AS
        SELECT c0 AS "CA", c1 AS "UNIT", c2 AS "SCP", c3 AS "STATION", c4 AS "LINENAME", c5 AS "DIVISION",
               strptime(c6, '%m-%d-%y')::DATE AS "DATE", make_timestamp(ends * 1000)::TIME AS "TIME",
               c8 AS "DESC", sum(c9::BIGINT)::BIGINT AS "ENTRIES", sum(c10::BIGINT)::BIGINT AS "EXITS"
        FROM once GROUP BY ALL;
        """
    )


def expect_cumulative(database, path):
    """Local times are compared as they stand: DATE and TIME of the file, and TIME of the lake."""
    database.execute(
        f"""
        CREATE TABLE file AS
        SELECT row_number() OVER () AS n, * FROM read_csv({quoted(path)}, all_varchar = true, normalize_names = true,
               parallel = false);
        """
    )
    names = [row[0] for row in database.execute("DESCRIBE file").fetchall()]
    # The row number, perhaps one of the file's own, then the eleven columns.
    renamed = ["CA", "UNIT", "SCP", "STATION", "LINENAME", "DIVISION", "DATE", "TIME", "DESC", "ENTRIES", "EXITS"]
    columns = ", ".join(f'"{old}" AS "{new}"' for old, new in zip(names[-11:], renamed))
    database.execute(
        f"""
        CREATE TABLE readings AS
        SELECT n, strptime("DATE" || ' ' || "TIME", '%m/%d/%Y %H:%M:%S') AS t, * EXCLUDE (n)
        FROM (SELECT n, {columns} FROM file);
        CREATE TABLE deltas AS
        SELECT *, trim("ENTRIES")::BIGINT - lag(trim("ENTRIES")::BIGINT) OVER w AS entries_delta,
                  trim("EXITS")::BIGINT - lag(trim("EXITS")::BIGINT) OVER w AS exits_delta
        FROM readings WINDOW w AS (PARTITION BY "CA", "UNIT", "SCP" ORDER BY t, n);
        CREATE TABLE judged AS
        SELECT *, CASE WHEN entries_delta < 0 THEN 'negative' WHEN entries_delta > 10000 THEN 'too_large'
                       WHEN exits_delta < 0 THEN 'negative_exits' WHEN exits_delta > 10000 THEN 'too_large_exits'
                  END AS reason
        FROM deltas WHERE entries_delta IS NOT NULL;
        CREATE TABLE expected AS
        SELECT "CA", "UNIT", "SCP", "STATION", "LINENAME", "DIVISION", strptime("DATE", '%m/%d/%Y')::DATE AS "DATE",
               (time_bucket(INTERVAL '5 minutes', t) + INTERVAL '5 minutes')::TIME AS "TIME", "DESC",
               sum(entries_delta)::BIGINT AS "ENTRIES", sum(exits_delta)::BIGINT AS "EXITS"
        FROM judged WHERE reason IS NULL GROUP BY ALL;
        """
    )


def counts(database, quarantine):
    found = {}
    for reason in ("negative", "too_large", "negative_exits", "too_large_exits"):
        meant = database.execute("SELECT count(*) FROM judged WHERE reason = ?", [reason]).fetchone()[0]
        found[reason] = meant
        if quarantine and meant:
            files = f"{quarantine}/reason={reason}/*.csv.gz"
            rows = f"read_csv({quoted(files)}, header = true, all_varchar = true)"
            there = database.execute(
                f'SELECT count(*), sum("ENTRIES_DELTA"::BIGINT), sum("EXITS_DELTA"::BIGINT) FROM {rows}'
            ).fetchone()
            want = database.execute(
                "SELECT count(*), sum(entries_delta), sum(exits_delta) FROM judged WHERE reason = ?", [reason]
            ).fetchone()
            if there != want:
                sys.exit(f"turnstile.py: {reason}: the quarantine holds {there}, not {want}")
    return found


def compare(database, lake):
    table, query = documented()
    database.execute(table.replace(DOCUMENTED_LAKE, quoted(f"{lake}/*.csv.gz")))
    stations = database.execute(query).fetchall()
    columns = f'{GROUP}, "ENTRIES", "EXITS"'
    for name, left, right in [("missing from the lake", "expected", "lake"), ("too much in the lake", "lake", "expected")]:
        rows = database.execute(
            f"SELECT {columns} FROM {left} EXCEPT ALL SELECT {columns} FROM {right} ORDER BY ALL LIMIT 5"
        ).fetchall()
        if rows:
            sys.exit(f"turnstile.py: {name}, among others: {rows}")
    totals = 'SELECT count(*), sum("ENTRIES")::BIGINT, sum("EXITS")::BIGINT FROM lake'
    rows, entries, exits = database.execute(totals).fetchone()
    if entries != sum(station[2] for station in stations):
        sys.exit("turnstile.py: the documented query gives another sum")
    return {"rows": rows, "entries": entries, "exits": exits}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("counters", choices=["delta", "cumulative"])
    parser.add_argument("input", help="files of messages, or the weekly file")
    parser.add_argument("lake", help="the folder of the output `windows`")
    parser.add_argument("--wait-ms", type=int, default=60_000)
    parser.add_argument("--quarantine", help="the folder of the output `quarantine`")
    args = parser.parse_args()
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    found = {}
    if args.counters == "delta":
        expect_deltas(database, args.input, args.wait_ms)
    else:
        expect_cumulative(database, args.input)
        found = counts(database, args.quarantine)
    found.update(compare(database, args.lake))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
