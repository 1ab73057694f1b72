"""Texts that exist already, in Parquet, CSV, JSON lines or KAR's JSON, cut to chunks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json
from numpy.typing import NDArray

from lorecast.artifacts import fingerprint_files
from lorecast.config import ImportedField
from lorecast.data import parsing
from lorecast.data.files import TableFiles
from lorecast.errors import InputError
from lorecast.knowledge.kar import looks_like_kar, read_kar
from lorecast.knowledge.leakage import UNKNOWN_END
from lorecast.knowledge.rows import SCHEMA
from lorecast.knowledge.sentences import group_evenly, split_sentences

_JSON_SUFFIXES: Final = (".jsonl", ".ndjson", ".json")
_JSON_BLOCK_BYTES: Final = 64 << 20
_MAX_NAMED: Final = 5


@dataclass(frozen=True, kw_only=True)
class ImportedTexts:
    """Knowledge rows of one field, and what became of the file's rows."""

    rows: pa.Table
    """As in `rows.SCHEMA`; a text without a sentence is one `empty` row."""
    num_texts: int
    """Texts of known entities, empty ones included."""
    num_empty: int
    num_unknown: int
    """Texts whose id is not in the dataset; they are left out."""
    num_chunks: int
    """Chunks of the longest text: the width of the field."""


def import_digest(field: ImportedField, root: Path) -> str:
    """Digest of the field's file. Raises InputError if there is none."""
    return fingerprint_files([_find(field, root)])


def import_texts(field: ImportedField, root: Path, entities: pa.Table) -> ImportedTexts:
    """The texts of one field. Relative paths start at `root`; line i of `entities` (id, texts) has
    row i + 1.

    Raises InputError naming file, column and fix: a missing or mistyped column, text that is not
    UTF-8, an id with two texts, a filter or ids that match nothing.
    """
    path = _find(field, root)
    table = _select(field, path, _read(field, path))
    ids = _column(table, field.id, path, parsing.ids)
    keys = _keys(field, entities)
    place = pc.index_in(ids, value_set=keys)
    _check_ids(field, path, ids, place, keys)
    end = pa.nulls(len(ids), pa.int32())
    if field.side == "user" and field.history_end is not None:
        end = _column(table, field.history_end, path, parsing.integers)
        end = pc.min_element_wise(end, UNKNOWN_END, skip_nulls=False)
    texts = pa.table(
        {
            "row": pc.add(place, 1),
            "id": entities["id"].take(place),
            "text": _column(table, field.text, path, parsing.texts),
            "history_end": end,
        }
    ).filter(place.is_valid())

    chunks = group_evenly(split_sentences(texts["text"].combine_chunks()), field.max_chunks)
    counts = np.diff(chunks.offsets.to_numpy())
    owner = np.repeat(np.arange(counts.size), counts)
    chunk = np.arange(owner.size) - chunks.offsets.to_numpy()[owner]
    empty = np.flatnonzero(counts == 0)
    rows = pa.concat_tables(
        [
            _rows(field, texts, owner, chunk, chunks.flatten(), "ok", ""),
            _rows(field, texts, empty, 0 * empty, pa.array([""] * empty.size), "empty", "no text"),
        ]
    )
    return ImportedTexts(
        rows=rows,
        num_texts=texts.num_rows,
        num_empty=empty.size,
        num_unknown=len(ids) - texts.num_rows,
        num_chunks=int(counts.max(initial=0)),
    )


def _rows(
    field: ImportedField,
    texts: pa.Table,
    owner: NDArray[np.int64],
    chunk: NDArray[np.int64],
    text: pa.StringArray,
    status: str,
    reason: str,
) -> pa.Table:
    """Knowledge rows for chunks whose texts stand in the lines `owner`."""
    of = texts.take(pa.array(owner, pa.int64()))

    def same(value: str | float | None) -> pa.Array:
        return pa.repeat(value, owner.size)

    columns = {
        "side": same(field.side),
        "row": of["row"],
        "id": of["id"],
        "field": same(field.name),
        "factor": pa.array(chunk + 1).cast(pa.string()),
        "chunk": pa.array(chunk),
        "text": text,
        "status": same(status),
        "reason": same(reason),
        "history_end": of["history_end"],
        "key": pa.nulls(owner.size, pa.string()),
        "prompt_tokens": same(0),
        "output_tokens": same(0),
        "weight": same(1.0),
        "certainty": pa.nulls(owner.size, pa.float32()),
    }
    return pa.table(columns).cast(SCHEMA)


def _keys(field: ImportedField, entities: pa.Table) -> pa.Array:
    """What the file calls the entities, by line."""
    texts = [column.name for column in entities.schema if column.type == pa.string()]
    if field.key not in texts:
        raise InputError(
            f"knowledge field {field.name!r}: the {field.side}s have no column {field.key!r} "
            f"(named in key); list it in dataset.{field.side}s.text"
        )
    keys = entities[field.key].combine_chunks()
    counts = pc.value_counts(keys.drop_null())
    shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(shared):
        raise InputError(
            f"knowledge field {field.name!r}: several {field.side}s have {field.key} = "
            f"{shared[0].as_py()!r}; a key must name one"
        )
    return keys


def _find(field: ImportedField, root: Path) -> Path:
    path = root / field.file
    if not path.exists():
        raise InputError(
            f"{path}: no such file (knowledge field {field.name!r}); relative paths start at "
            "dataset.path"
        )
    return path


def _read(field: ImportedField, path: Path) -> pa.Table:
    wanted = [field.id, field.text, *field.where]
    if field.history_end is not None:
        wanted.append(field.history_end)
    key = f"knowledge field {field.name!r}"
    is_kar = looks_like_kar(path)
    if is_kar or path.suffix.lower() in _JSON_SUFFIXES:
        table = read_kar(path) if is_kar else _read_json_lines(path, field.text)
        for column in wanted:
            if column not in table.column_names:
                has = ", ".join(table.column_names)
                raise InputError(f"{path}: no column {column!r} (named in {key}); it has {has}")
        return table
    files = TableFiles.find(path.parent, path.name)
    files.require(wanted, key)
    chunk = files.read(list(dict.fromkeys(wanted)))
    if chunk.malformed:
        raise InputError(
            f"{path}: {len(chunk.malformed):,} lines have a wrong number of fields, the first "
            f"{chunk.malformed[0][:60]!r}; quote texts that hold delimiters"
        )
    return chunk.table


def _read_json_lines(path: Path, text_column: str) -> pa.Table:
    content = path.read_bytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: not UTF-8 in line {line:,} (byte {error.start:,}); save it as UTF-8"
        ) from None
    try:
        table = pa_json.read_json(
            pa.BufferReader(content),
            read_options=pa_json.ReadOptions(block_size=_JSON_BLOCK_BYTES),
            # Arrow would take texts that look like dates for dates.
            parse_options=pa_json.ParseOptions(
                explicit_schema=pa.schema([(text_column, pa.string())])
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: not JSON lines ({' '.join(str(error).split())}); write one object a line"
        ) from None
    # Arrow adds a column that the schema names and the file lacks.
    has_text = table[text_column].null_count < table.num_rows
    return table if has_text else table.drop_columns([text_column])


def _select(field: ImportedField, path: Path, table: pa.Table) -> pa.Table:
    for column, value in field.where.items():
        values = _column(table, column, path, parsing.texts)
        matches = pc.fill_null(pc.equal(values, value), False)
        if not pc.any(matches).as_py():
            seen = ", ".join(map(repr, pc.unique(values).drop_null()[:_MAX_NAMED].to_pylist()))
            raise InputError(
                f"{path}: no row has {column} = {value!r} (knowledge field {field.name!r}); "
                f"the column holds {seen}"
            )
        table = table.filter(matches)
    return table


def _column(
    table: pa.Table, name: str, path: Path, parse: Callable[[parsing.Column], pa.Array]
) -> pa.Array:
    try:
        return parse(table[name])
    except TypeError as error:
        kind = table.schema.field(name).type
        raise InputError(f"{path}: column {name!r} is {kind}, expected {error}") from None


def _check_ids(
    field: ImportedField, path: Path, ids: pa.Array, place: pa.Array, entity_ids: pa.Array
) -> None:
    if place.null_count == len(ids):
        found = ids.drop_null()[:1].to_pylist()
        known = entity_ids[:1].to_pylist()
        raise InputError(
            f"{path}: no id of column {field.id!r} is a known {field.side} (knowledge field "
            f"{field.name!r}); its ids look like {found}, the dataset's like {known}"
        )
    counts = pc.value_counts(ids.filter(place.is_valid()))
    doubled = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise InputError(
            f"{path}: {len(doubled):,} ids have more than one text, the first "
            f"{doubled[0].as_py()!r} (knowledge field {field.name!r}); pick one text an id with "
            "`where`"
        )
