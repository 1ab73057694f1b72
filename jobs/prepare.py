"""prepare: interactions, users and items → samples with histories (Ray Data → Parquet).

Streams: a task holds `compute.prepare_rows_per_task` interactions and as many tasks run as there
are cores; only the entity tables are in memory whole. Two passes, parted by files below the
workspace (`lorecast.data.buckets`). Ray Data's own hash shuffle was tried first: regrouping 8 M
rows took it 41 s against 12 s through files, and its memory grew with the rows.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, Draft, StageSpec, build, find, write_json
from lorecast.config import DatasetConfig, ExperimentConfig
from lorecast.data.buckets import Buckets
from lorecast.data.entities import Entities, known_only_by_id
from lorecast.data.files import Fragment, TableFiles
from lorecast.data.interactions import InteractionRules
from lorecast.data.layout import ITEMS, REJECTED, SPLITS, STAGE, USERS, VOCABULARIES
from lorecast.data.preparation import (
    MAX_CONTEXTS,
    MAX_LEVELS,
    Gathered,
    Preparation,
    Scattered,
    mentioned_ids,
)
from lorecast.data.rejected import Found, merge, summarise
from lorecast.data.sources import Source
from lorecast.data.split import TimeSpan, require_every_part
from lorecast.errors import BadRowsError, InputError, LorecastError
from lorecast.jobs.cluster import connect
from lorecast.jobs.console import Console

_MAX_REPEATED = 0.5
"""Share of liked rows whose history may end with their own item: some things are bought twice."""


def run(config: ExperimentConfig, console: Console) -> Artifact:
    """The dataset of an experiment, made or found.

    Raises InputError for tables that cannot be used, BadRowsError if too many rows cannot; the
    rejected rows then lie in the unfinished artifact.
    """
    source = open_source(config.dataset)
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity=config.dataset.identity(),
        inputs={"source": source.fingerprint()},
    )
    workspace = config.compute.folder.resolve()
    if artifact := find(workspace, spec):
        return artifact
    with build(workspace, spec) as draft:
        scratch = draft.path / "scratch"
        scratch.mkdir()
        try:
            _prepare(config, source, draft, scratch, console)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # tasks of a failed run may still write
    return Artifact.open(draft.path)


def open_source(config: DatasetConfig) -> Source:
    """The tables that the experiment names. Raises InputError if they are not there."""
    if config.source == "tables":
        from lorecast.data.tables import TablesSource

        return TablesSource(config)
    if config.source == "movielens":
        from lorecast.data.movielens import MovieLensSource

        return MovieLensSource(config)
    from lorecast.world.source import WorldSource

    return WorldSource(config.world_seed)


def _prepare(
    config: ExperimentConfig, source: Source, draft: Draft, scratch: Path, console: Console
) -> None:
    rows_per_task = config.compute.prepare_rows_per_task
    files = source.interactions(scratch)
    num_rows = files.num_rows()
    fragments = files.fragments(rows_per_task)
    rules = InteractionRules(columns=source.columns, config=config.dataset)
    (draft.path / REJECTED).mkdir()
    users, items = source.users(), source.items()
    rejected = _check_entities({"users": users, "items": items}, config.dataset, draft.path)
    if users is None or items is None:
        connect(config.compute)
        users, items = _mentioned(files, fragments, rules, users, items, rows_per_task, console)

    preparation = Preparation(
        config=config.dataset,
        rules=rules,
        files=files,
        user_ids=users.ids,
        item_ids=items.ids,
        buckets=Buckets.of_users(len(users.ids), -(-num_rows // rows_per_task)),
        rows_per_task=rows_per_task,
        target=draft.path,
        scratch=scratch,
    )
    preparation.check_types()
    preparation.make_folders()
    connect(config.compute)
    scattered = _scatter(preparation, fragments, console)
    if found := merge(report.rejected for report in scattered):
        rejected["interactions"] = found
    num_read = sum(report.num_read for report in scattered)
    check_rate("interactions", str(files), num_read, found, config.dataset, draft.path)
    if not any(report.ratings for report in scattered):
        raise InputError(f"{files}: no usable interaction among {num_read:,} rows")

    if source.columns.history is not None:
        draft.facts |= _history_facts(scattered, source.columns.history.column, files, console)

    levels = _levels(scattered, rules)
    contexts = _contexts(scattered, source.columns.context)
    rows, positives = _gather(preparation, scattered, levels, contexts, console)
    require_every_part(rows, config.dataset.split)
    vocabularies = _write_entities(draft.path, users, items, preparation.users_past(), config)
    vocabularies["rating"] = levels
    if contexts:
        vocabularies["context"] = contexts
    write_json(draft.path / VOCABULARIES, vocabularies)
    draft.facts |= {
        "rows": rows,
        "positives": {split: round(positives[split] / rows[split], 6) for split in SPLITS},
        "interactions": num_read - sum(reason["rows"] for reason in found.values()),
        "users": len(users.ids),
        "items": len(items.ids),
        "history_length": config.dataset.history_length,
        "text_columns": {"user": list(users.texts), "item": list(items.texts)},
        "rejected": rejected,
    }
    for side, entities in (("user", users), ("item", items)):
        for name, count in entities.num_cut.items():
            console.note(
                f"{count:,} {side}s have more values of {name!r} than the first ones that count "
                f"(dataset.{side}s.multi_max)"
            )
    if rejected:
        total = sum(reason["rows"] for table in rejected.values() for reason in table.values())
        console.note(f"{total:,} rows rejected: see {draft.path / REJECTED}")


def _check_entities(
    tables: Mapping[str, Entities | None], config: DatasetConfig, target: Path
) -> dict[str, dict[str, Found]]:
    """Writes rejected entities aside; raises BadRowsError if they are too many."""
    rejected = {}
    for name, entities in tables.items():
        if entities is None or entities.rejected is None or not entities.rejected.num_rows:
            continue
        pq.write_table(entities.rejected, target / REJECTED / f"part-{name}.parquet")
        rejected[name] = summarise(entities.rejected)
        file = entities.rejected["file"][0].as_py()
        check_rate(name, file, entities.num_read, rejected[name], config, target)
    return rejected


def check_rate(
    table: str,
    file: str,
    num_read: int,
    found: Mapping[str, Found],
    config: DatasetConfig,
    target: Path,
) -> None:
    """Raises BadRowsError if more of a table's rows are rejected than `dataset.max_bad_rows`."""
    num_rejected = sum(reason["rows"] for reason in found.values())
    if num_rejected <= config.max_bad_rows * num_read:
        return
    reasons = sorted(found.items(), key=lambda item: -item[1]["rows"])
    told = "; ".join(
        f"{text} ({reason['rows']:,} rows, such as {reason['examples'][0]!r})"
        for text, reason in reasons[:3]
    )
    raise BadRowsError(
        f"{file}: {num_rejected:,} of {num_read:,} {table} rows cannot be used: {told}. They lie "
        f"in {target / REJECTED}; mend them or raise dataset.max_bad_rows ({config.max_bad_rows:g})"
    )


def _mentioned(
    files: TableFiles,
    fragments: Sequence[Fragment],
    rules: InteractionRules,
    users: Entities | None,
    items: Entities | None,
    rows_per_task: int,
    console: Console,
) -> tuple[Entities, Entities]:
    """Fills in the entities that no table lists with those that interactions mention."""
    columns = []
    if users is None:
        columns.append(rules.columns.user)
    if items is None:
        columns.append(rules.columns.item)
    ids: dict[str, set[str]] = {name: set() for name in columns}

    def survey(index: int) -> dict[str, list[str]]:
        return mentioned_ids(files, fragments[index], columns, rows_per_task)

    for _, mentioned in _each(survey, len(fragments), "prepare: ids", console):
        for name in columns:
            ids[name].update(mentioned[name])
    found = {
        name: known_only_by_id(pa.array(sorted(values), pa.string()))
        for name, values in ids.items()
    }
    return users or found[rules.columns.user], items or found[rules.columns.item]


def _scatter(
    preparation: Preparation, fragments: Sequence[Fragment], console: Console
) -> list[Scattered]:
    shared = _share(preparation)

    def scatter(index: int) -> dict[str, Any]:
        return asdict(shared().scatter(index, fragments[index]))

    reports = sorted(_each(scatter, len(fragments), "prepare: reading", console))
    return [Scattered(**report) for _, report in reports]


def _history_facts(
    scattered: Sequence[Scattered], column: str, files: TableFiles, console: Console
) -> dict[str, Any]:
    """Raises InputError if the history column holds no known item, or the rows' own items."""
    counts: Counter[str] = Counter()
    for report in scattered:
        counts.update(report.history)
    told = f"{counts['unknown']:,} of {counts['ids']:,} ids in column {column!r}"
    if counts["ids"] and counts["unknown"] == counts["ids"]:
        raise InputError(
            f"{files}: {told} are not in the items table: it must hold the ids of dataset.items.id"
        )
    if counts["repeated"] > _MAX_REPEATED * counts["liked"]:
        raise InputError(
            f"{files}: column {column!r} ends with the row's own item in {counts['repeated']:,} of "
            f"{counts['liked']:,} rows with label 1, which tells the label: it must hold only what "
            "was before the row"
        )
    if counts["unknown"]:
        console.note(f"{told} are not in the items table: histories go without them")
    return {
        "rates_histories": False,
        "history_ids": counts["ids"],
        "unknown_history_ids": counts["unknown"],
    }


def _levels(scattered: Sequence[Scattered], rules: InteractionRules) -> list[float]:
    if rules.columns.rating is None:
        return [0, 1]
    values = sorted({value for report in scattered for value in report.ratings})
    if len(values) > MAX_LEVELS:
        raise InputError(
            f"column {rules.columns.rating!r} has more than {MAX_LEVELS} distinct ratings: "
            f"round it to levels, or map it as a label instead"
        )
    return [int(value) if value == int(value) else value for value in values]


def _contexts(scattered: Sequence[Scattered], columns: Sequence[str]) -> dict[str, list[str]]:
    """The values of each context column, sorted; the code of a value is its index + 1."""
    contexts = {}
    for name in columns:
        values = sorted({value for report in scattered for value in report.contexts[name]})
        if not 0 < len(values) <= MAX_CONTEXTS:
            told = f"more than {MAX_CONTEXTS:,} values" if values else "no value"
            raise InputError(
                f"column {name!r} (named in dataset.interactions.context) has {told}: a context is "
                "one of a few categories; leave it out"
            )
        contexts[name] = values
    return contexts


def _gather(
    preparation: Preparation,
    scattered: Sequence[Scattered],
    levels: list[float],
    contexts: Mapping[str, list[str]],
    console: Console,
) -> tuple[dict[Any, int], dict[Any, int]]:
    """Rows and positives by split."""
    shared = _share(preparation)
    num_buckets = preparation.buckets.num_buckets
    cuts = None
    if preparation.config.split.by == "time":
        span = TimeSpan(
            min(report.first_time for report in scattered if report.first_time is not None),
            max(report.last_time for report in scattered if report.last_time is not None),
        )

        def count(bucket: int) -> list[int]:
            counts: list[int] = shared().count(bucket, span).tolist()
            return counts

        counts = span.counts(np.empty(0, np.int64))
        for _, of_bucket in _each(count, num_buckets, "prepare: times", console):
            counts += np.array(of_bucket)
        cuts = span.cuts(counts, preparation.config.split)

    def gather(bucket: int) -> dict[str, Any]:
        return asdict(shared().gather(bucket, levels, contexts, cuts))

    reports = [Gathered(**r) for _, r in _each(gather, num_buckets, "prepare: samples", console)]
    return (
        {split: sum(report.rows[split] for report in reports) for split in SPLITS},
        {split: sum(report.positives[split] for report in reports) for split in SPLITS},
    )


def _write_entities(
    target: Path, users: Entities, items: Entities, past: pa.Table, config: ExperimentConfig
) -> dict[str, Any]:
    """Writes both tables; returns the vocabularies and scales of their features."""
    multi = {"item": items.multi_vocabularies(), "user": users.multi_vocabularies()}
    scales = {}
    items, scales["item"] = items.standardised(target, "item")
    users, scales["user"] = users.standardised(target, "user")
    pq.write_table(items.item_table(), target / ITEMS)
    pq.write_table(users.user_table(past, config.dataset.history_length), target / USERS)
    vocabularies: dict[str, Any] = {"item": items.vocabularies(), "user": users.vocabularies()}
    if any(multi.values()):
        vocabularies["multi"] = multi
    if any(scales.values()):
        vocabularies["numeric"] = {
            side: {name: scale._asdict() for name, scale in of_side.items()}
            for side, of_side in scales.items()
        }
    return vocabularies


def _share(preparation: Preparation) -> Callable[[], Preparation]:
    """Puts the id tables into the object store once; tasks map them."""
    import ray

    reference = ray.put(preparation)
    return lambda: ray.get(reference)


def _each(
    work: Callable[[int], Any], count: int, description: str, console: Console
) -> Iterator[tuple[int, Any]]:
    """`work(0)` … `work(count - 1)`, plain values, as Ray Data tasks, one a core; as they end.

    An error of ours comes back as one, without the cluster's stack around it.
    """
    import ray

    def guarded(task: dict[str, int]) -> dict[str, int | str]:
        index = int(task["index"])
        try:
            return {"index": index, "result": json.dumps(work(index)), "error": ""}
        except LorecastError as error:
            return {"index": index, "result": "", "error": str(error)}

    tasks = ray.data.from_items([{"index": i} for i in range(count)], override_num_blocks=count)
    with console.progress(description, count) as progress:
        for row in tasks.map(guarded, num_cpus=labels_per_core()).iter_rows():
            if row["error"]:
                raise InputError(row["error"])
            yield row["index"], json.loads(row["result"])
            progress.advance()


def labels_per_core() -> float:
    """Logical CPUs of this node per core it has: a local Ray has more labels than cores."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    labels = next(n["Resources"].get("CPU", 1.0) for n in ray.nodes() if n["NodeID"] == node)
    return max(1.0, float(labels) // (os.cpu_count() or 1))
