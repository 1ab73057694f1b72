"""The user's table files, Parquet or CSV, read in chunks of bounded memory.

CSV columns come as strings, whatever they look like, so that one odd value is one bad row and
never a failed file; lines with too few or too many fields are set aside.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from lorecast.artifacts import fingerprint_files
from lorecast.errors import InputError

_CSV_BLOCK_BYTES = 4 << 20
_DELIMITERS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
_SUFFIXES = (".parquet", *_DELIMITERS)


@dataclass(frozen=True, kw_only=True)
class CsvFormat:
    """How a delimited text file is written."""

    delimiter: str = ","
    names: tuple[str, ...] = ()
    """Column names of a file without a header line."""
    encoding: str = "utf8"


@dataclass(frozen=True)
class Fragment:
    """A part of a file that one task reads: row groups of Parquet, or a whole CSV file."""

    path: Path
    first_row: int = 0
    row_groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file."""

    first_row: int
    """Place of the first row inside its file, from 0; CSV does not count malformed lines."""
    table: pa.Table
    malformed: tuple[str, ...]
    """Lines of this stretch of a CSV file with a wrong number of fields, as they stand."""


@dataclass(frozen=True, kw_only=True)
class TableFiles:
    """One logical table in files with the same columns, rows in file order."""

    paths: tuple[Path, ...]
    csv: CsvFormat | None = None
    """None: Parquet."""

    @classmethod
    def find(cls, root: Path, name: str | tuple[str, ...]) -> "TableFiles":
        """The file `name` below `root`, or all tables in the folder of that name; several of them
        as one table.

        Raises InputError naming the nearest existing file.
        """
        if not isinstance(name, str):
            return cls._joined([cls.find(root, each) for each in name])
        path = root / name
        if path.is_dir():
            paths = tuple(sorted(file for file in path.iterdir() if _suffix(file)))
            if not paths:
                raise InputError(f"{path}: the folder holds no {' or '.join(_SUFFIXES)} file")
        elif path.is_file():
            paths = (path,)
        else:
            raise InputError(f"{path}: no such file{_nearest_file(path)}")
        suffixes = {_suffix(file) for file in paths}
        if len(suffixes) > 1:
            raise InputError(f"{path}: the folder mixes {' and '.join(sorted(suffixes))} files")
        suffix = suffixes.pop()
        if not suffix:
            raise InputError(f"{path}: give a {' or '.join(_SUFFIXES)} file")
        return cls(
            paths=paths,
            csv=None if suffix == ".parquet" else CsvFormat(delimiter=_DELIMITERS[suffix]),
        )

    @classmethod
    def _joined(cls, parts: "Sequence[TableFiles]") -> "TableFiles":
        paths = tuple(path for part in parts for path in part.paths)
        if twice := [path for path in paths if paths.count(path) > 1]:
            raise InputError(f"{twice[0]}: the file is listed twice")
        if len({part.csv for part in parts}) > 1:
            listed = ", ".join(path.name for path in paths)
            raise InputError(f"{paths[0].parent}: {listed} are one table in several formats")
        return cls(paths=paths, csv=parts[0].csv)

    def __str__(self) -> str:
        return str(self.paths[0] if len(self.paths) == 1 else self.paths[0].parent)

    def fingerprint(self) -> str:
        """Digest of names and contents."""
        return fingerprint_files(self.paths)

    def column_types(self) -> dict[str, pa.DataType]:
        """Column names and types, of the first file."""
        path = self.paths[0]
        with _readable(path, self.csv):
            if self.csv is None:
                schema = pq.read_schema(path)
            else:
                with pa_csv.open_csv(path, **_csv_options(self.csv)) as reader:
                    schema = pa.schema([(name, pa.string()) for name in reader.schema.names])
        return dict(zip(schema.names, schema.types, strict=True))

    def require(self, columns: Iterable[str], key: str) -> None:
        """Raises InputError if a file lacks one of the columns that config `key` names."""
        for path in self.paths:
            known = TableFiles(paths=(path,), csv=self.csv).column_types()
            for column in columns:
                if column not in known:
                    raise InputError(
                        f"{path}: no column {column!r} (named in {key})"
                        f"{_nearest(column, known)}; it has {', '.join(known)}"
                    )

    def num_rows(self) -> int:
        """Rows of all files: exact for Parquet, an estimate from the first lines for CSV."""
        if self.csv is None:
            return sum(self._metadata(path).num_rows for path in self.paths)
        return sum(_estimate_lines(path) for path in self.paths)

    def fragments(self, max_rows: int) -> list[Fragment]:
        """The table cut, where files allow, to parts of about `max_rows` rows, in file order."""
        if self.csv is not None:
            return [Fragment(path) for path in self.paths]
        fragments = []
        for path in self.paths:
            metadata = self._metadata(path)
            first_row = row = 0
            groups: list[int] = []
            for group in range(metadata.num_row_groups):
                groups.append(group)
                row += metadata.row_group(group).num_rows
                if row - first_row >= max_rows or group == metadata.num_row_groups - 1:
                    fragments.append(Fragment(path, first_row, tuple(groups)))
                    first_row, groups = row, []
        return fragments

    def read(self, columns: Sequence[str]) -> Chunk:
        """These columns of the whole table, in memory."""
        chunks = [
            chunk for path in self.paths for chunk in self._scan_whole(path, columns, 1 << 20)
        ]
        if not chunks:
            kinds = self.column_types()
            empty = pa.schema([(name, kinds[name]) for name in columns]).empty_table()
            return Chunk(0, empty, ())
        return Chunk(
            0,
            pa.concat_tables([chunk.table for chunk in chunks], promote_options="permissive"),
            tuple(line for chunk in chunks for line in chunk.malformed),
        )

    def scan(self, fragment: Fragment, columns: Sequence[str], max_rows: int) -> Iterator[Chunk]:
        """These columns of a fragment, at most about `max_rows` rows in memory at once."""
        if self.csv is not None:
            yield from self._scan_csv(fragment.path, self.csv, columns, max_rows)
            return
        first_row = fragment.first_row
        with _readable(fragment.path, None), pq.ParquetFile(fragment.path) as file:
            for batch in file.iter_batches(max_rows, fragment.row_groups, list(columns)):
                yield Chunk(first_row, pa.Table.from_batches([batch]), ())
                first_row += batch.num_rows

    def _scan_whole(self, path: Path, columns: Sequence[str], max_rows: int) -> Iterator[Chunk]:
        groups = () if self.csv else tuple(range(self._metadata(path).num_row_groups))
        return self.scan(Fragment(path, 0, groups), columns, max_rows)

    @staticmethod
    def _scan_csv(
        path: Path, csv: CsvFormat, columns: Sequence[str], max_rows: int
    ) -> Iterator[Chunk]:
        malformed: list[str] = []

        def set_aside(row: pa_csv.InvalidRow) -> str:
            malformed.append(row.text or "")
            return "skip"

        options = _csv_options(csv, set_aside)
        options["convert_options"] = pa_csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        first_row = num_rows = 0
        pending: list[pa.RecordBatch] = []
        with _readable(path, csv), pa_csv.open_csv(path, **options) as reader:
            for batch in reader:
                pending.append(batch)
                num_rows += batch.num_rows
                if num_rows >= max_rows:
                    yield Chunk(first_row, pa.Table.from_batches(pending), tuple(malformed))
                    first_row += num_rows
                    num_rows = 0
                    pending.clear()
                    malformed.clear()
            rest = pa.Table.from_batches(pending, reader.schema)
            yield Chunk(first_row, rest, tuple(malformed))

    def _metadata(self, path: Path) -> pq.FileMetaData:
        with _readable(path, self.csv):
            return pq.read_metadata(path)


def is_table(path: Path) -> bool:
    """Whether a file's name says that it is a table this module reads."""
    return bool(_suffix(path)) and path.is_file()


def _csv_options(csv: CsvFormat, on_malformed: object = None) -> dict[str, object]:
    return {
        "read_options": pa_csv.ReadOptions(
            column_names=csv.names or None, encoding=csv.encoding, block_size=_CSV_BLOCK_BYTES
        ),
        "parse_options": pa_csv.ParseOptions(
            delimiter=csv.delimiter,
            newlines_in_values=True,
            invalid_row_handler=on_malformed or (lambda _: "skip"),
        ),
    }


@contextmanager
def _readable(path: Path, csv: CsvFormat | None) -> Iterator[None]:
    """Arrow's complaints about a file as one sentence."""
    try:
        yield
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty") from None
        if csv is not None and not isinstance(error, OSError):
            line = _first_undecodable_line(path, csv.encoding)
            if line is not None:
                raise InputError(f"{path}: not UTF-8 in line {line:,}; save it as UTF-8") from None
        kind = "Parquet" if csv is None else "CSV"
        raise InputError(f"{path}: not a readable {kind} file ({_one_line(error)})") from None


def _first_undecodable_line(path: Path, encoding: str) -> int | None:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError:
                return number
    return None


def _estimate_lines(path: Path) -> int:
    with pa.input_stream(str(path)) as stream:
        head = stream.read(1 << 20)
    packed = 4 if path.suffix == ".gz" else 1
    return max(1, int(path.stat().st_size * packed * head.count(b"\n") / max(len(head), 1)))


def _suffix(path: Path) -> str:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), "")


def _nearest_file(path: Path) -> str:
    folder = next(parent for parent in path.parents if parent.is_dir())
    if folder != path.parent:
        return f"; {folder} is the last folder on that path that exists"
    names = sorted(file.name for file in folder.iterdir() if _suffix(file) or file.is_dir())
    if not names:
        return f"; {folder} holds no tables"
    return f"{_nearest(path.name, names)}; {folder} holds {', '.join(names[:12])}"


def _nearest(wanted: str, known: Iterable[str]) -> str:
    match = get_close_matches(wanted, list(known), 1, 0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
