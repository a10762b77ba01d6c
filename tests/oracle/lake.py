#!/usr/bin/env python3
"""Reads a folder (or a bucket) of Parquet files as other programs do, and prints its rows as JSON.

The folders' names are columns, as Hive has it; a column that is both in a name and in a file is an
error, and so is anything in the folder that is neither a Parquet file nor hidden.
"""

import argparse
import json
import os
import sys
from datetime import datetime

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as fs
import pyarrow.parquet as pq


def open_place(place):
    """The file system and the path in it."""
    if not place.startswith("s3://"):
        return fs.LocalFileSystem(), place
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    scheme, _, host = endpoint.partition("://")
    return fs.S3FileSystem(endpoint_override=host, scheme=scheme, region=os.environ.get("AWS_REGION")), place[5:]


def check(files, root):
    infos = files.get_file_info(fs.FileSelector(root, recursive=True))
    paths = [info.path for info in infos if info.type == fs.FileType.File]
    for path in paths:
        parts = os.path.relpath(path, root).split("/")
        if len(parts) == 1 and parts[0].startswith("_highwater-") and parts[0].endswith(".json"):
            continue  # says which job the folder belongs to
        if not path.endswith(".parquet"):
            sys.exit(f"lake.py: {path} is no Parquet file")
        if any(part.startswith((".", "_")) for part in parts):
            sys.exit(f"lake.py: {path} is a leftover")
        names = [part.partition("=")[0] for part in parts[:-1]]
        both = set(names) & set(pq.read_schema(path, filesystem=files).names)
        if both:
            sys.exit(f"lake.py: {path} holds {both}, which its folder's name says already")
    if not paths:
        sys.exit(f"lake.py: there is no file in {root}")


def rows_by_pyarrow(files, root):
    return ds.dataset(root, filesystem=files, format="parquet", partitioning="hive").to_table().to_pylist()


def rows_by_duckdb(_files, root):
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    glob = {"glob": f"{root}/**/*.parquet"}
    table = database.execute("SELECT * FROM read_parquet($glob, hive_partitioning = true)", glob)
    # Through Arrow: DuckDB's own conversion of times wants one more package.
    return table.to_arrow_table().to_pylist()


def plain(name, value):
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"
    if name == "hour":
        return f"{int(value):02}"
    return str(value) if name == "date" else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place", help="a folder, or s3://BUCKET/PREFIX at AWS_ENDPOINT_URL")
    parser.add_argument("--reader", choices=["duckdb", "pyarrow"], required=True)
    args = parser.parse_args()
    files, root = open_place(args.place)
    check(files, root)
    rows = {"duckdb": rows_by_duckdb, "pyarrow": rows_by_pyarrow}[args.reader](files, root)
    for row in rows:
        print(json.dumps({name: plain(name, value) for name, value in row.items()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
