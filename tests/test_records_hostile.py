"""Records of strangers: what Arrow would believe is looked at first, and nothing outside the file is ever read."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from robustiqa.bench import records
from robustiqa.bench.errors import BadData
from robustiqa.bench.records import SCHEMA, Damaged, decode, decode_many, encode
from robustiqa.bench.store import Store

ROWS = [{"cell": "c", "kind": "score", "image": name, "status": "ok", "clean": 1.5} for name in ("first", "second")]
NAME = "c.arrow.gz"


def stream_of(content: bytes) -> bytes:
    return gzip.decompress(content)


def packed(stream: bytes) -> bytes:
    return gzip.compress(stream, mtime=0)


def written(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table)
    return packed(sink.getvalue().to_pybytes())


def refused(content: bytes, words: str = "corrupt") -> None:
    """One by one, together with others, and below an honest one."""
    for read in (lambda: decode(content, NAME), lambda: decode_many({"a.arrow.gz": encode(ROWS), NAME: content})):
        with pytest.raises(BadData, match=words) as caught:
            read()
        assert NAME in str(caught.value)
        assert "\n" not in str(caught.value)


def with_offsets(first: int, last: int) -> bytes:
    """The offsets of the column `image` say that its texts are elsewhere."""
    stream = bytearray(stream_of(encode(ROWS)))
    honest = struct.pack("<iii", 0, len("first"), len("firstsecond"))
    assert stream.count(honest) == 1
    place = stream.index(honest)
    stream[place : place + 12] = struct.pack("<iii", first, len("first"), last)
    return packed(bytes(stream))


@pytest.mark.parametrize(("first", "last"), [(0, 2**31 - 1), (0, 4096), (-4096, 11), (0, -1), (0, 2)])
def test_texts_that_point_elsewhere(first: int, last: int) -> None:
    """Without the check, the text is what happens to be in the memory there, or the program dies."""
    refused(with_offsets(first, last))
    assert decode(with_offsets(0, 11), NAME)["image"].to_pylist() == ["first", "second"]


def test_text_that_is_no_text() -> None:
    stream = stream_of(encode(ROWS))
    assert stream.count(b"firstsecond") == 1
    refused(packed(stream.replace(b"firstsecond", b"\xff\xfe\xffstsecond")))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers(compression: str) -> None:
    """A few bytes of them fill any memory; ours are never compressed inside the gzip."""
    refused(written(decode(encode(ROWS), NAME), compression))


def test_an_end_in_the_middle_loses_no_other_file() -> None:
    stream, mark = stream_of(encode(ROWS)), b"\xff\xff\xff\xff\x00\x00\x00\x00"
    refused(packed(stream + mark))
    refused(packed(stream.removesuffix(mark)))
    refused(packed(stream + stream))
    refused(packed(stream[:-8] + b"\0" * 8 + mark))


def test_more_rows_than_a_cell_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_ROWS", 2)
    assert len(decode(encode(ROWS), NAME)) == 2
    refused(encode([*ROWS, ROWS[0]]))
    pq.write_table(decode(encode(ROWS), NAME), sink := pa.BufferOutputStream())
    assert len(decode(sink.getvalue().to_pybytes(), "c.parquet")) == 2
    monkeypatch.setattr(records, "_ROWS", 1)
    with pytest.raises(Damaged, match=r"c\.parquet"):
        decode(sink.getvalue().to_pybytes(), "c.parquet")


def test_a_column_of_another_kind() -> None:
    """Dictionaries, lists and the like are not ours; those of a newer schema are told apart."""
    table = decode(encode(ROWS), NAME)
    kinds = table.set_column(1, "kind", table["kind"].dictionary_encode())
    refused(written(kinds))
    refused(written(kinds.replace_schema_metadata({"robustiqa_schema": "3"})), "corrupt|schema 3")
    lists = table.append_column("more", pa.array([[1], [2]]))
    refused(written(lists))
    refused(written(lists.replace_schema_metadata({"robustiqa_schema": "3"})), "schema 3, this program reads up to 2")


def test_every_changed_byte_of_the_envelopes_is_survived() -> None:
    """Flipped with a right checksum: an error in a sentence, or rows that are whole, never a crash."""
    stream = stream_of(encode(ROWS))
    head = len(records._HEAD)
    envelope = 8 + struct.unpack_from("<I", stream, head + 4)[0]
    outcomes = {True: 0, False: 0}
    for place in range(head, head + envelope):
        for bit in (1, 64, 255):
            damaged = bytearray(stream)
            damaged[place] ^= bit
            try:
                table = decode(packed(bytes(damaged)), NAME)
            except BadData:
                outcomes[False] += 1
            else:
                table.to_pandas()
                assert table.schema.equals(SCHEMA)
                outcomes[True] += 1
    assert outcomes[False] > outcomes[True] > 0


def test_a_strangers_folder(tmp_path: Path) -> None:
    """What `collect` reads, reads so: the file is named."""
    store = Store(tmp_path)
    store.create()
    store.write_cell("one", ROWS)
    (store.cells / "two.arrow.gz").write_bytes(with_offsets(0, 4096))
    with pytest.raises(Damaged, match=r"two\.arrow\.gz.*corrupt"):
        store.read_rows(["one", "two"])
