"""Turns a router trace's CSV (`sluice trace convert`) to Parquet and back.

    python studies/trace_table.py run.csv run.parquet
    python studies/trace_table.py run.parquet run.csv

Works in blocks of rows. The trace's header, the CSV's first line, is kept in Parquet's metadata.
"""

import argparse
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet

HEADER_KEY = b"sluice-router-trace"


def to_parquet(source, target):
    with open(source, "rb") as file:
        header = file.readline().rstrip(b"\n")
        names = file.readline().decode().strip().split(",")
    if not header.startswith(b"# {"):
        raise SystemExit(f"{source}: is not a trace's CSV, which begins with its header")
    types = {n: pyarrow.float64() if n.startswith("weight_") else pyarrow.int64() for n in names}
    reader = pyarrow.csv.open_csv(source, read_options=pyarrow.csv.ReadOptions(skip_rows=1),
                                  convert_options=pyarrow.csv.ConvertOptions(column_types=types))
    schema = reader.schema.with_metadata({HEADER_KEY: header})
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def to_csv(source, target):
    table = pyarrow.parquet.ParquetFile(source)
    header = (table.schema_arrow.metadata or {}).get(HEADER_KEY)
    if header is None:
        raise SystemExit(f"{source}: holds no router trace, as this tool writes it")
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    with open(target, "wb") as file:
        file.write(header + b"\n" + ",".join(table.schema_arrow.names).encode() + b"\n")
        for batch in table.iter_batches():
            pyarrow.csv.write_csv(pyarrow.Table.from_batches([batch]), file, options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    suffixes = (arguments.source.suffix, arguments.target.suffix)
    if suffixes == (".csv", ".parquet"):
        to_parquet(arguments.source, arguments.target)
    elif suffixes == (".parquet", ".csv"):
        to_csv(arguments.source, arguments.target)
    else:
        parser.error("one file is named .csv and the other .parquet")


if __name__ == "__main__":
    main()
