"""CoLLM's own data, pickled pandas tables, read without running what a pickle may hold.

A pickle is a program. This reader knows the few names that a table needs and refuses any other.
`convert` writes what the source `tables` reads, with the columns of configs/collm-sella.yaml.
"""

import pickle
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.data.layout import SPLITS, Split
from lorecast.errors import InputError

_FLAGS: Final[dict[Split, int]] = {"train": -1, "valid": 0, "test": 1}
_NEEDED: Final = ("uid", "iid", "title", "his", "label", "timestamp")
_ALLOWED: Final = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("pandas", "DataFrame"),
    ("pandas", "Index"),
    ("pandas", "RangeIndex"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
}
_OLD_INDEXES: Final = ("Int64Index", "UInt64Index", "Float64Index")


class _TableUnpickler(pickle.Unpickler):
    """Finds the names of tables alone; those of older numpy and pandas at their new places."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy.core."):
            module = module.replace("numpy.core.", "numpy._core.")
        if module == "pandas.core.indexes.numeric" and name in _OLD_INDEXES:
            module, name = "pandas.core.indexes.base", "Index"
        if (module, name) not in _ALLOWED:
            raise InputError(
                f"the pickle asks for {module}.{name}, which no table needs: it may run any code, "
                "and is not read"
            )
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise InputError(f"the pickle asks for the outside object {pid!r}, and is not read")


def read_table(path: Path) -> pd.DataFrame:
    """The pickled table. Raises InputError if it is none, or holds anything else."""
    try:
        with path.open("rb") as stream:
            table = _TableUnpickler(stream).load()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path}: not a readable pickle of a pandas table ({reason})") from None
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{path}: holds a {type(table).__name__}, not a pandas table")
    if missing := [name for name in _NEEDED if name not in table.columns]:
        raise InputError(
            f"{path}: has no column {', '.join(missing)}; it has {', '.join(map(str, table))}"
        )
    return table


def convert(folder: Path, output: Path) -> dict[str, int]:
    """Writes train, valid, test, users and items as Parquet to `output`; returns rows by split.

    `folder` holds train_ood2.pkl, valid_ood2.pkl and test_ood2.pkl. Raises InputError if one is
    missing or no table, or if an item has two titles.
    """
    tables: dict[Split, pd.DataFrame] = {}
    for split in SPLITS:
        path = folder / f"{split}_ood2.pkl"
        if not path.is_file():
            raise InputError(f"{path}: no such file; name CoLLM's folder, with its *_ood2.pkl")
        tables[split] = read_table(path)
    output.mkdir(parents=True, exist_ok=True)
    for split, table in tables.items():
        columns = {name: table[name].to_numpy() for name in ("uid", "iid", "label", "timestamp")}
        history = [[int(item) for item in items if item] for items in table["his"]]
        flag = np.full(len(table), _FLAGS[split], np.int8)
        pq.write_table(
            pa.table({**columns, "flag": flag, "his": pa.array(history, pa.list_(pa.int64()))}),
            output / f"{split}.parquet",
        )
    together = pd.concat(tables.values())
    items = together[["iid", "title"]].drop_duplicates()
    if (twice := items["iid"].duplicated()).any():
        raise InputError(f"{folder}: item {items['iid'][twice].iloc[0]} has two titles")
    in_history = {int(item) for items_ in together["his"] for item in items_ if item}
    if unseen := in_history - set(items["iid"]):
        nameless = pd.DataFrame({"iid": sorted(unseen), "title": None})
        items = pd.concat([items, nameless])
    items = items.sort_values("iid")
    pq.write_table(
        pa.table(
            {
                "iid": items["iid"].to_numpy(np.int64),
                "title": pa.array(items["title"].tolist(), pa.string()),
            }
        ),
        output / "items.parquet",
    )
    pq.write_table(pa.table({"uid": np.unique(together["uid"])}), output / "users.parquet")
    return {split: len(table) for split, table in tables.items()}
