"""Reads a table of Delta Lake with the reader of the delta-rs project and prints it.

    delta.py TABLE [--at VERSION] [--storage-options JSON]

Standard output has the rows as lines of JSON, in the order of their texts; standard error one line
with the version, the number of files and the transactions, as JSON.
"""

import argparse
import json
import sys

import duckdb
from deltalake import DeltaTable


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("table")
    parser.add_argument("--at", type=int)
    parser.add_argument("--storage-options", type=json.loads, default={})
    given = parser.parse_args()
    table = DeltaTable(given.table, version=given.at, storage_options=given.storage_options)
    history = table.history()
    rows = table.to_pyarrow_dataset().to_table()
    # By a second reader of the table's columns: DuckDB scans what delta-rs has found.
    database = duckdb.connect()
    database.register("found", rows)
    counted = database.execute("SELECT count(*) FROM found").fetchall()[0][0]
    lines = sorted(json.dumps(row, default=str, sort_keys=True) for row in rows.to_pylist())
    assert counted == len(lines)
    sys.stdout.writelines(line + "\n" for line in lines)
    about = {
        "version": table.version(),
        "files": len(table.file_uris()),
        "partitions": table.metadata().partition_columns,
        "operations": sorted({entry["operation"] for entry in history}),
        "rows": counted,
        "records_by_statistics": sum(
            table.get_add_actions(flatten=True)["num_records"].to_pylist()
        )
        if rows.num_rows
        else 0,
    }
    print(json.dumps(about), file=sys.stderr)


main()
