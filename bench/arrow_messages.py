"""The envelopes of an Arrow stream, looked at before Arrow reads what is in them.

A result file may be a stranger's. Arrow reads a stream that was not written by Arrow without looking at the offsets in
it (`Table.validate(full=True)` does that afterwards), but two things would have done their harm by then: compressed
buffers, of which a few bytes fill the memory, and an end mark in the middle, after which other files that are read in
one go would be lost without a word. Both are in the envelopes, which are read here by hand.

Layout: https://arrow.apache.org/docs/format/Columnar.html, "Encapsulated message format", and `format/Message.fbs` of
the Arrow project; tables of FlatBuffers, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import struct

_CONTINUES = 0xFFFFFFFF
_SCHEMA, _ROWS = 1, 3
"""Numbers of `Schema` and `RecordBatch` in the union `MessageHeader`."""

_TYPE, _HEADER, _LENGTH = 1, 2, 3
"""Fields of the table `Message`."""
_NUMBER_OF_ROWS, _COMPRESSION = 0, 3
"""Fields of the table `RecordBatch`."""


def wrong_in(messages: bytes, most_rows: int, schema: bool = False) -> str:
    """What is wrong with the messages of a stream, in words; "" if they are plain rows, uncompressed, and whole.

    Args:
        messages: one after the other, without the end mark.
        most_rows: in all of them together.
        schema: whether the first one is the schema; there is none otherwise.
    """
    place, rows = 0, 0
    try:
        while place < len(messages):
            mark, size = struct.unpack_from("<II", messages, place)
            start = place + 8
            if mark != _CONTINUES or size == 0:
                return "an end mark before its end"
            table = start + _number("<I", messages, start)
            kind = _number("<B", messages, _field(messages, table, _TYPE))
            if kind != (_SCHEMA if schema and place == 0 else _ROWS):
                return f"a message of kind {kind} where rows are expected"
            if kind == _ROWS:
                place_of_header = _field(messages, table, _HEADER)
                header = place_of_header + _number("<I", messages, place_of_header)
                if _field(messages, header, _COMPRESSION):
                    return "compressed buffers"
                length = _field(messages, header, _NUMBER_OF_ROWS)
                rows += _number("<q", messages, length) if length else 0
                if not 0 <= rows <= most_rows:
                    return f"{rows} rows"
            length = _field(messages, table, _LENGTH)
            body = _number("<q", messages, length) if length else 0
            if body < 0:
                return "a body of negative length"
            place = start + size + body
    except struct.error:
        return "an envelope that is cut short"
    return "" if place == len(messages) else "an envelope that is cut short"


def _number(form: str, content: bytes, place: int) -> int:
    if place <= 0:
        raise struct.error("a field that is not there")
    return struct.unpack_from(form, content, place)[0]


def _field(content: bytes, table: int, index: int) -> int:
    """Where a field of a FlatBuffers table is; 0 where the table leaves it out."""
    entries = table - _number("<i", content, table)
    if entries <= 0 or _number("<H", content, entries) < 6 + 2 * index:
        return 0
    offset = _number("<H", content, entries + 4 + 2 * index)
    return table + offset if offset else 0
