"""One cell's rows as bytes: exact, checked to the last bit, and old schemas."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from robustiqa.bench import records
from robustiqa.bench.errors import BadData
from robustiqa.bench.records import SCHEMA, Damaged, check, decode, decode_many, encode
from robustiqa.bench.store import Store
from robustiqa.leaderboard import collect
from robustiqa.leaderboard.compare import compare

GOLDEN = Path(__file__).parent / "golden"
ROWS = [
    {"cell": "c", "kind": "attack", "image": "a/b", "status": "ok", "clean": 0.1 + 0.2, "queries": 2**53 + 1},
    {"cell": "c", "kind": "attack", "image": "ä", "status": "error", "message": "why", "clean": None, "batch": 4},
]


def test_rows_come_back_exactly() -> None:
    table = decode(encode(ROWS), "c.arrow.gz")
    assert table.schema.equals(SCHEMA, check_metadata=True)
    for row, found in zip(ROWS, table.to_pylist(), strict=True):
        assert {k: v for k, v in found.items() if v is not None} == {k: v for k, v in row.items() if v is not None}
    assert encode(ROWS) == encode(ROWS)
    assert len(decode(encode([]), "c.arrow.gz")) == 0


def test_every_flipped_bit_and_every_cut_is_noticed() -> None:
    """But for the few that change nothing: the header's time and system, a copy of zeros from elsewhere."""
    content = encode(ROWS)
    whole = decode(content, "c.arrow.gz")
    silent = 0
    for place in range(len(content)):
        for bit in (1, 128):
            damaged = bytearray(content)
            damaged[place] ^= bit
            try:
                check(bytes(damaged), "c.arrow.gz")
            except Damaged:
                continue
            silent += 1
            assert decode(bytes(damaged), "c.arrow.gz").equals(whole)
        with pytest.raises(Damaged):
            check(content[:place], "c.arrow.gz")
    assert silent < 0.02 * 2 * len(content)
    for more in (b"\0", content):
        with pytest.raises(Damaged):
            decode(content + more, "c.arrow.gz")


def test_a_small_file_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_MOST", 1 << 20)
    for read in (check, decode):
        with pytest.raises(BadData, match=r"'c.arrow.gz' holds more than 0.0 GB unzipped"):
            read(gzip.compress(bytes(1 << 24)), "c.arrow.gz")
    assert len(decode(encode(ROWS), "c.arrow.gz")) == 2


def test_many_are_read_as_each_is() -> None:
    """Of the present schema with and without rows, of schema 1, and damaged ones."""
    parquet = next((GOLDEN / "schema-1" / "cells").glob("certify-*.parquet"))
    whole = {"a.arrow.gz": encode(ROWS), "b.arrow.gz": encode([]), parquet.name: parquet.read_bytes(),
             "c.arrow.gz": encode(ROWS[::-1])}  # fmt: skip
    each = pa.concat_tables([decode(content, name) for name, content in whole.items()]).combine_chunks()
    assert decode_many(whole).equals(each)
    assert decode_many({}).schema.equals(SCHEMA, check_metadata=True)
    with pytest.raises(Damaged, match=r"c\.arrow\.gz"):
        decode_many(whole | {"c.arrow.gz": whole["c.arrow.gz"][:-1]})
    with pytest.raises(BadData, match="schema 3"):
        decode_many(whole | {"d.arrow.gz": _with_version("3")})


def test_pandas_reads_a_file_without_this_package(tmp_path: Path) -> None:
    (tmp_path / "c.arrow.gz").write_bytes(encode(ROWS))
    with gzip.open(tmp_path / "c.arrow.gz") as file:
        found = pa.ipc.open_stream(file).read_pandas()
    assert found["clean"][0] == 0.1 + 0.2
    assert found["image"].tolist() == ["a/b", "ä"]


def _with_version(version: str | None) -> bytes:
    table = decode(encode(ROWS), "c.arrow.gz").replace_schema_metadata(
        None if version is None else {"robustiqa_schema": version}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return gzip.compress(sink.getvalue().to_pybytes())


@pytest.mark.parametrize(("version", "words"), [
    ("3", "has schema 3, this program reads up to 2: update robustiqa"),
    ("0", "schema 0, which never was"),
    (None, "does not say its schema"),
])  # fmt: skip
def test_other_schemas_are_one_sentence(version: str | None, words: str) -> None:
    with pytest.raises(BadData, match=words):
        decode(_with_version(version), "c.arrow.gz")


def test_upgrades_are_applied_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema 4 that renames a column twice: tables of 2 and of 3 both arrive."""
    new = pa.schema([f.with_name("k4") if f.name == "kind" else f for f in SCHEMA], {"robustiqa_schema": "4"})

    def renamed(old: str, name: str):
        return lambda t: t.rename_columns([name if n == old else n for n in t.column_names])

    content = {2: encode(ROWS), 3: None}
    monkeypatch.setattr(records, "UPGRADES", records.UPGRADES | {2: renamed("kind", "k3"), 3: renamed("k3", "k4")})
    monkeypatch.setattr(records, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(records, "SCHEMA", new)
    parquet = next((GOLDEN / "schema-1" / "cells").glob("score-*.parquet"))
    for bytes_, name in ((content[2], "c.arrow.gz"), (parquet.read_bytes(), parquet.name)):
        assert bytes_ is not None
        table = decode(bytes_, name)
        assert table.schema.names == new.names
        assert table["k4"].null_count == 0


def test_parquet_of_schema_1_is_read_with_all_its_values() -> None:
    for path in (GOLDEN / "schema-1" / "cells").glob("*.parquet"):
        old, new = pq.read_table(path), decode(path.read_bytes(), path.name)
        assert new.select(old.column_names).replace_schema_metadata().equals(old.replace_schema_metadata())
        assert set(new.column_names) - set(old.column_names) == {"batch"}
        assert new["batch"].null_count == len(new) > 0
        assert decode(encode(new.to_pylist()), "c.arrow.gz").equals(new)


@pytest.mark.parametrize("schema", ["schema-1", "schema-2"])
def test_golden_runs_still_give_their_tables(schema: str, tmp_path: Path) -> None:
    """Runs that were written by the program of each schema, with a metric of a plug-in file that is not here."""
    shutil.copytree(GOLDEN / schema, tmp_path / "run")
    tables = collect(tmp_path / "run")
    kept = sorted(p.name for p in (GOLDEN / schema / "leaderboard").iterdir())
    assert set(kept) <= {p.name for p in tables.values()}
    for path in tables.values():
        if path.suffix == ".csv" and path.name in kept:
            old, new = pd.read_csv(GOLDEN / schema / "leaderboard" / path.name), pd.read_csv(path)
            pd.testing.assert_frame_equal(new[list(old.columns)], old, rtol=1e-5)
    found = compare(tmp_path / "run", ["jpeg[]"])
    assert set(found.loc[found["baseline"] == "jpeg", "measure"]) == {"srocc", "plcc", "krocc"}
    store = Store(tmp_path / "run")
    cells = store.snapshot().results
    assert len(cells) == 5
    assert store.completed(cells) == set(cells)
    assert store.todo(cells, "errors") != []
    assert store.bad_rows(cells) == len(pd.read_csv(tables["errors"]))
