"""The rows of one cell as bytes, and back: an Arrow stream in gzip, whose CRC every reading checks.

Why not a Parquet file a cell: its footer describes every column chunk at length, which costs more than a few rows hold.
For cells of 8 images (schema 1 kept them as Parquet, both measured on one core): 2.1 to 2.5 kB instead of 14 to 17 kB,
and 0.09 ms of CPU time to read instead of 3.1 ms, 0.3 ms to write instead of 2.7 ms.

The gzip trailer holds a CRC-32 and the length of the content, against chance. A file may also be a stranger's, written
to do harm: its envelope is looked at before Arrow reads it (`arrow_messages`), its offsets and texts before they are
followed, for 0.01 ms a cell where many are read. The schema's version is part of the Arrow schema's metadata,
`robustiqa_schema`; older tables are brought up to date step by step (`UPGRADES`).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .arrow_messages import wrong_in
from .errors import BadData

SCHEMA_VERSION = 2
"""2: Arrow streams instead of Parquet, column `batch`."""

SUFFIX = ".arrow.gz"
PARQUET = ".parquet"
SUFFIXES = (SUFFIX, PARQUET)
"""How names of result files end; the first is what is written."""

_VERSION = b"robustiqa_schema"
_GZIP = 16 + zlib.MAX_WBITS
_MOST = 2**30
"""Bytes of a cell unzipped, a million rows: more is no record of ours, but may be made to fill the memory."""
_STEP = 2**20
_ROWS = 2**20
"""Rows of a cell."""
_TYPES = {pa.string(), pa.int64(), pa.float64(), pa.bool_()}
"""What columns hold, in every schema."""

_TEXT = ("cell", "kind", "metric", "defense", "dataset", "truth_name", "image", "reference", "status", "message",
         "attack", "norm", "direction", "certificate", "certified_norm", "coverage", "check")  # fmt: skip
_COUNTS = ("height", "width", "forwards", "backwards", "queries", "n", "batch")
_NUMBERS = ("truth", "eps", "clean", "clean_lo", "clean_hi", "attacked", "attacked_lo", "attacked_hi",
            "attacked_8bit", "attacked_8bit_lo", "attacked_8bit_hi", "gain", "gain_8bit", "linf", "l2", "psnr", "ssim",
            "seconds", "score", "lo", "hi", "family_lo", "family_hi", "alpha", "sigma", "spread",
            "range_lo", "range_hi", "value", "threshold")  # fmt: skip
_FLAGS = ("lower_better", "randomised", "bounded", "abstained", "raised")
SCHEMA = pa.schema(
    [pa.field(n, pa.string()) for n in _TEXT]
    + [pa.field(n, pa.int64()) for n in _COUNTS]
    + [pa.field(n, pa.float64()) for n in _NUMBERS]
    + [pa.field(n, pa.bool_()) for n in _FLAGS],
    metadata={_VERSION: str(SCHEMA_VERSION)},
)
"""A row an image (for a certificate: an image, eps and kind; for reliability checks: a check); a column that does not
apply is null. `batch` is the number of images that were run together where memory forced it to be smaller than asked.
"""


_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends an Arrow stream."""


def _head() -> bytes:
    """What begins an Arrow stream of the present schema."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA):
        pass
    return sink.getvalue().removesuffix(_END)


_HEAD = _head()


class Damaged(BadData):
    """Bytes that are no whole record: cut short, or changed since they were written."""


def _without_batch(table: pa.Table) -> pa.Table:
    """Schema 1 to 2: nothing was known of smaller batches."""
    return table.append_column(pa.field("batch", pa.int64()), pa.nulls(len(table), pa.int64()))


UPGRADES: dict[int, Callable[[pa.Table], pa.Table]] = {1: _without_batch}
"""What turns a table of a version into one of the next."""


def encode(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the bytes of a result file: the same rows give the same bytes. Keys that are no column are left out."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in SCHEMA.names} for row in rows], schema=SCHEMA)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    return gzip.compress(sink.getvalue(), mtime=0)


def decode(content: bytes, name: str) -> pa.Table:
    """The table in the bytes of a result file, brought up to the present schema.

    Args:
        content: the whole file.
        name: its name, which says the format by its end, and stands in errors.

    Raises:
        Damaged: the bytes are not those that were written.
        BadData: they are of a schema newer than this program's.
    """
    if name.endswith(PARQUET):
        table = _of_parquet(content, name)
    else:
        stream = _unzipped(content, name)
        if not stream.endswith(_END) or wrong_in(stream[: -len(_END)], _ROWS, schema=True):
            raise _damaged(name)
        table = _of_stream(stream, name)
    return _upgraded(table, name)


def decode_many(contents: Mapping[str, bytes]) -> pa.Table:
    """The tables in the bytes of several result files, by name, one below the other.

    As `decode` for each, at half the cost: streams with the present schema, the usual case, are joined before they are
    read, so that their schema is read once.

    Raises:
        Damaged, BadData: as `decode`, for the first such file.
    """
    tables: list[pa.Table] = []
    bodies: dict[str, bytes] = {}

    def join() -> None:
        if bodies:
            try:
                tables.append(_of_stream(b"".join([_HEAD, *bodies.values(), _END]), ""))
            except Damaged:  # say which
                for name, body in bodies.items():
                    _of_stream(b"".join([_HEAD, body, _END]), name)
                raise
            bodies.clear()

    for name, content in contents.items():
        stream = b"" if name.endswith(PARQUET) else _unzipped(content, name)
        if stream.startswith(_HEAD) and stream.endswith(_END):
            body = stream[len(_HEAD) : -len(_END)]
            if wrong_in(body, _ROWS):
                raise _damaged(name)
            bodies[name] = body
        else:
            join()
            tables.append(decode(content, name))
    join()
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).combine_chunks()


def _of_stream(stream: bytes, name: str) -> pa.Table:
    """The table in an Arrow stream whose envelopes were looked at; raises `Damaged` where it is none of ours."""
    try:
        reader = pa.ipc.open_stream(stream)
        _check_types(reader.schema, name)
        table = reader.read_all()
        # Offsets of texts that point elsewhere would be read as they are, and give what is in the memory there.
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name) from error
    return table


def _of_parquet(content: bytes, name: str) -> pa.Table:
    """The table in a Parquet file, as for a stream."""
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        about = file.metadata
        pages = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
        _check_types(file.schema_arrow, name)
        if about.num_rows > _ROWS or pages > _MOST or about.num_columns > 2 * len(SCHEMA):
            raise _damaged(name)
        table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name) from error
    return table


def _check_types(schema: pa.Schema, name: str) -> None:
    if not {field.type for field in schema} <= _TYPES:
        _upgraded(schema.empty_table(), name)  # of a newer program, it may be right
        raise _damaged(name)


def check(content: bytes, name: str) -> None:
    """Raise `Damaged` unless the bytes of a result file are whole; cheaper than to decode them."""
    if name.endswith(PARQUET):  # no checksum over all of it: reading everything is the best there is
        decode(content, name)
    else:
        _unzipped(content, name)


def unzipped_size(content: bytes, most: int, name: str) -> int:
    """Bytes that a result file holds unzipped, in little memory; a number above `most` where there are more than that.

    Raises `Damaged` where it is no gzip file.
    """
    unzip, size = zlib.decompressobj(_GZIP), 0
    try:
        while not unzip.eof and size <= most:
            part = unzip.decompress(content, _STEP)
            content = unzip.unconsumed_tail
            size += len(part)
            if not part and not content:
                break
    except zlib.error as error:
        raise _damaged(name) from error
    return size


def _unzipped(content: bytes, name: str) -> bytes:
    """The content of one gzip member; zlib compares CRC and length at its end."""
    unzip = zlib.decompressobj(_GZIP)
    try:
        found = unzip.decompress(content, _MOST)
    except zlib.error as error:
        raise _damaged(name) from error
    if unzip.unconsumed_tail and len(found) == _MOST:
        raise BadData(f"result file {name!r} holds more than {_MOST / 1e9:.1f} GB unzipped: delete it, and take a "
                      "smaller `chunk` if it is your own")  # fmt: skip
    if not unzip.eof or unzip.unused_data:
        raise _damaged(name)
    return found


def _damaged(name: str) -> Damaged:
    return Damaged(f"result file {name!r} is corrupt (cut short or changed): delete it and run again")


def _upgraded(table: pa.Table, name: str) -> pa.Table:
    if table.schema.equals(SCHEMA, check_metadata=True):
        return table
    text = (table.schema.metadata or {}).get(_VERSION, b"").decode(errors="replace")
    if not text.isdigit():
        raise Damaged(f"result file {name!r} does not say its schema: it is none of this program's; delete it")
    version = int(text)
    if version > SCHEMA_VERSION:
        raise BadData(f"result file {name!r} has schema {version}, this program reads up to {SCHEMA_VERSION}: update "
                      "robustiqa to the version that wrote it")  # fmt: skip
    while version < SCHEMA_VERSION:
        if version not in UPGRADES:
            raise Damaged(f"result file {name!r} has schema {version}, which never was: delete it")
        table = UPGRADES[version](table)
        version += 1
    try:
        return table.select(SCHEMA.names).cast(SCHEMA)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise Damaged(f"result file {name!r} lacks columns of its schema: delete it and run again") from error
