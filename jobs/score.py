"""score: pairs of users and items, or every user's best items, scored offline on Ray Data.

    workspace/score/<name>-<fingerprint8>/scores/part-*.parquet

The input is cut into blocks, and each becomes a part: memory does not grow with the rows, and a run
that was killed keeps its finished parts. Actors hold one scorer each, with one thread; a bundle's
vectors are memory-mapped, and so lie in a machine's memory once.
"""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.artifacts import Artifact, StageSpec, build, find, fingerprint_files
from lorecast.config import ExperimentConfig
from lorecast.data.files import TableFiles
from lorecast.errors import ConfigError, InputError, ServingError
from lorecast.jobs import score_input
from lorecast.jobs.blocks import Columns, map_blocks, open_block, thread_environment, write_blocks
from lorecast.jobs.console import Console
from lorecast.lifecycle.card import CARD, BundleCard
from lorecast.lifecycle.offline import (
    Counts,
    PairColumns,
    noted,
    score_pairs,
    top_items,
)
from lorecast.lifecycle.registry import champion_of, fetch
from lorecast.lifecycle.scorer import Scorer

STAGE = "score"
SCORES = "scores"
_BLOCK_ROWS = 1 << 18
"""Pairs of a part."""
_LEAST_USERS = 64
"""Users of a part, if so many candidates each are more than that."""


def run(
    config: ExperimentConfig,
    job: score_input.Job,
    console: Console,
    *,
    model: str | None = None,
    bundle: Path | None = None,
    out: Path | None = None,
) -> Artifact:
    """The scores by the experiment's champion, another `model` of the registry, or a `bundle`.

    `out` names a new folder for a copy of the parts. Raises ConfigError, InputError, RegistryError
    or ArtifactError before anything starts, and ServingError if actors keep dying.
    """
    job.check()
    if model and bundle:
        raise ConfigError("--model and --bundle name two models: give one of them")
    if out is not None and out.exists():
        raise InputError(f"{out} exists: --out takes a new folder")
    files = job.files()
    folder, version = (bundle.absolute(), None) if bundle else _fetch(config, model)
    opened = Scorer.load(folder).bundle  # an actor's own failure would be hard to read
    inputs = {"bundle": fingerprint_files([folder / CARD])}
    if files is not None:
        inputs["table"] = files.fingerprint()
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity={"layout": 1, "columns": asdict(job.columns), "top": job.top},
        inputs=inputs,
    )
    workspace, started_s = config.compute.folder.resolve(), time.monotonic()
    artifact = find(workspace, spec)
    cached = artifact is not None
    if artifact is None:
        with build(workspace, spec, resume=True) as draft:
            facts = _score(config, job, files, opened, draft.path, console)
            draft.facts.update(facts, model_version=version or opened.version)
        artifact = Artifact.open(draft.path)
    place = _copied(artifact.path / SCORES, out)
    _tell(artifact.facts, place, console, time.monotonic() - started_s, cached=cached)
    return artifact


def _fetch(config: ExperimentConfig, model: str | None) -> tuple[Path, str]:
    from lorecast.lifecycle.mlflow_registry import open_registry

    workspace = config.compute.folder.absolute()
    return fetch(open_registry(config), model or champion_of(config), workspace)


def _score(
    config: ExperimentConfig,
    job: score_input.Job,
    files: TableFiles | None,
    bundle: BundleCard,
    folder: Path,
    console: Console,
) -> dict[str, Any]:
    """Writes the missing parts to `folder`; returns what all parts count."""
    compute = config.compute
    parts, blocks_folder = folder / SCORES, folder / "blocks"
    shutil.rmtree(blocks_folder, ignore_errors=True)
    parts.mkdir(exist_ok=True)
    try:
        if job.top is None:
            assert files is not None, "pairs lie in files"
            reading = score_input.Reading(files, job.columns, bundle, console)
            blocks = write_blocks(reading.tables(), blocks_folder, _BLOCK_ROWS)
            facts: dict[str, Any] = {"malformed_lines": reading.num_malformed}
            pairs_a_row = 1
        else:
            candidates = score_input.candidates(files, job.columns, bundle)
            blocks_folder.mkdir()
            pq.write_table(pa.table({"id": candidates}), blocks_folder / _CANDIDATES)
            pairs_a_row = len(candidates)
            users = pa.table({"user_row": pa.array(np.arange(1, bundle.num_users + 1, dtype="i4"))})
            users_a_block = max(_LEAST_USERS, _BLOCK_ROWS // pairs_a_row)
            blocks = write_blocks([users], blocks_folder, users_a_block)
            facts = {"top": job.top, "candidates": pairs_a_row}
        missing = [block for block in blocks if not _part(parts, block).exists()]
        total = pairs_a_row * sum(pq.read_metadata(block).num_rows for block in missing)
        if len(missing) < len(blocks):
            console.note(f"{len(blocks) - len(missing):,} of {len(blocks):,} parts are there")
        seconds = 0.0
        if missing:
            actors = compute.scorers or len(os.sched_getaffinity(0))
            arguments = {
                "bundle": bundle.path.absolute(),
                "device": "cuda" if compute.scorer_gpus else "cpu",
                "parts": parts,
                "columns": job.columns,
                "top": job.top,
            }
            started_s = time.monotonic()
            scored = map_blocks(
                missing,
                _ScoringWorker,
                arguments,
                compute,
                actors=actors,
                gpus=compute.scorer_gpus,
                environment=thread_environment(compute, actors),
            )
            with closing(scored), console.progress("score", total) as task:
                for batch in scored:
                    task.advance(int(batch["pairs"].sum()))
            seconds = time.monotonic() - started_s
    finally:
        shutil.rmtree(blocks_folder, ignore_errors=True)
    written = sorted(parts.glob("*.parquet"))
    counts = Counts.sum(Counts.of(pq.read_schema(part)) for part in written)
    facts |= {
        "rows": sum(pq.read_metadata(part).num_rows for part in written),
        "pairs": counts.rows,
        "unknown": counts.unknown,
        "unknown_examples": counts.examples,
        "scoring_s": round(seconds, 3),
    }
    if total:
        facts["pairs_per_second"] = round(total / seconds, 1)
    return facts


_CANDIDATES = "candidates.parquet"


def _part(parts: Path, block: Path) -> Path:
    return parts / block.name.replace("block", "part")


class _ScoringWorker:
    """An actor: one scorer, one block of rows at a time, which becomes a part."""

    def __init__(
        self, bundle: Path, device: str, parts: Path, columns: PairColumns, top: int | None
    ) -> None:
        self._bundle, self._device, self._parts = bundle, device, parts
        self._columns, self._top = columns, top
        self._scorer: Scorer | None = None

    def __call__(self, batch: Columns) -> Columns:
        block = open_block(batch, ServingError)
        path = Path(batch["block"][0])
        if self._scorer is None:
            self._scorer = Scorer.load(self._bundle, self._device)
        if self._top is None:
            scored, counts = score_pairs(self._scorer, block, self._columns)
        else:
            candidates = pq.read_table(path.with_name(_CANDIDATES))["id"].combine_chunks()
            scored, counts = self._best(self._scorer, block["user_row"].to_numpy(), candidates)
        partial = path.with_suffix(".partial")
        pq.write_table(noted(scored, counts), partial)
        partial.replace(_part(self._parts, path))
        return {"pairs": np.array([counts.rows])}

    def _best(
        self, scorer: Scorer, user_row_U: np.ndarray, candidates: pa.Array
    ) -> tuple[pa.Table, Counts]:
        assert self._top is not None, "asked for"
        ids = candidates.to_pylist()
        item_row_N = scorer.rows("item", ids)
        best_UK, score_UK = top_items(scorer, user_row_U, item_row_N, self._top)
        K = best_UK.shape[1]
        users = scorer.bundle.entities("user")["id"].combine_chunks()
        table = pa.table(
            {
                self._columns.user: users.take(pa.array(np.repeat(user_row_U - 1, K))),
                "place": np.tile(np.arange(1, K + 1, dtype=np.int32), len(user_row_U)),
                self._columns.item: candidates.take(pa.array(best_UK.ravel())),
                "score": score_UK.ravel(),
            }
        )
        unknown_N = np.flatnonzero(item_row_N == 0)
        return table, Counts(
            rows=len(user_row_U) * len(ids),
            unknown={"item": len(user_row_U) * len(unknown_N)},
            examples={"item": tuple(ids[place] for place in unknown_N)},
        )


def _copied(parts: Path, out: Path | None) -> Path:
    """The folder to read: a copy of the parts, whole or not there, if one is wanted."""
    if out is None:
        return parts
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    shutil.copytree(parts, partial)
    return partial.rename(out)


def _tell(
    facts: Mapping[str, Any], place: Path, console: Console, seconds: float, *, cached: bool
) -> None:
    if malformed := facts.get("malformed_lines"):
        console.note(f"{malformed:,} lines left out: they have too few or too many fields")
    for what, count in facts["unknown"].items():
        if count:
            examples = ", ".join(facts["unknown_examples"].get(what, ()))
            console.note(
                f"{count:,} pairs with an unknown {what}, scored by what else is known"
                + (f" (such as {examples})" if examples else "")
            )
    console.stage(STAGE, f"{facts['pairs']:,} pairs", seconds=seconds, cached=cached)
    console.result(f"scores: {place}", scores=str(place), **facts)
