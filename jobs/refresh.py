"""refresh: new clicks, users and items join the model that serves, which is not trained again.

    workspace/refresh/<name>-<fingerprint8>/bundle/    the very folder that was registered

Histories go on with the clicks; knowledge is asked and encoded of the new entities alone. The
grown bundle becomes a version, and the champion if it was made from the champion: there is no gate,
since the weights are the same and entities that did not change score as before, which is checked.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorecast import remote
from lorecast.artifacts import Artifact, StageSpec, build, find, fingerprint, fingerprint_files
from lorecast.config import ExperimentConfig, Side
from lorecast.data.dataset import Dataset
from lorecast.data.growth import Joined, with_clicks
from lorecast.data.histories import Timelines
from lorecast.data.layout import STAGE as PREPARED
from lorecast.errors import ArtifactError, InputError
from lorecast.jobs.asking import MakeEngine
from lorecast.jobs.console import Console
from lorecast.jobs.encode import MakeEncoder
from lorecast.jobs.refresh_input import NewTables, Reader
from lorecast.jobs.refresh_knowledge import Learning
from lorecast.lifecycle import history as histories
from lorecast.lifecycle.bundle import Bundle
from lorecast.lifecycle.card import CARD, kind_of
from lorecast.lifecycle.history import Record
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.refreshing import check_refreshed, write_refreshed
from lorecast.lifecycle.registry import (
    ModelVersion,
    Registry,
    RunRecord,
    champion_of,
    fetch,
    parse_reference,
)
from lorecast.lifecycle.scorer import Scorer

STAGE = "refresh"


def run(
    config: ExperimentConfig,
    tables: NewTables,
    console: Console,
    *,
    model: str | None = None,
    serve: bool = True,
    make_engine: MakeEngine | None = None,
    make_encoder: MakeEncoder | None = None,
) -> ModelVersion:
    """The version of the experiment's champion, or of another `model`, that has these rows.

    `serve`: it becomes the champion. `make_engine` and `make_encoder` replace the configured ones.
    Raises InputError, BadRowsError or ConfigError for tables that cannot be used, ArtifactError if
    what the model was made with is not at hand, PromotionError if another version serves meanwhile:
    the new one is registered then.
    """
    registry, workspace = open_registry(config), config.compute.folder.absolute()
    version = registry.resolve(*parse_reference(model or champion_of(config)))
    folder, _ = fetch(registry, f"models:/{version}", workspace)
    if kind_of(folder) != "click":
        raise InputError(
            f"{version} is the model of a section `sella`: a language model was tuned on its items "
            "and users, and cannot be refreshed; `lorecast run` trains on the grown tables"
        )
    bundle, inputs = Bundle.open(folder), tables.fingerprints()
    rows = fingerprint(inputs)
    if any(earlier["rows"] == rows for earlier in bundle.refreshed):
        console.result(f"{version} has these rows already", model=str(version), refreshed=False)
        return version
    spec = StageSpec(
        stage=STAGE,
        name=config.name,
        identity={
            "layout": 1,
            "dataset": config.dataset.identity(),
            "knowledge": config.knowledge.identity(),
            "encoding": config.encoding.identity(),
        },
        inputs={"bundle": fingerprint_files([folder / CARD]), **inputs},
    )
    artifact = find(workspace, spec)
    if artifact is None:
        console.heading(f"lorecast refresh · {version}")
        with build(workspace, spec) as draft:
            before = Scorer.load(folder)
            dataset = _dataset(workspace, bundle)
            reader = Reader(
                config=config,
                tables=tables,
                bundle=bundle,
                dataset=dataset,
                folder=draft.path,
                console=console,
            )
            origin = {"rows": rows, "from": str(version)}
            draft.facts.update(_grow(reader, before, draft.path, origin, make_engine, make_encoder))
        artifact = Artifact.open(draft.path)
    made = _registered(registry, version, artifact)
    _tell(artifact.facts, version, made, console)
    if serve:
        _serve(registry, version, made, artifact, console)
    return made


def _grow(
    reader: Reader,
    before: Scorer,
    folder: Path,
    origin: Mapping[str, Any],
    make_engine: MakeEngine | None,
    make_encoder: MakeEncoder | None,
) -> dict[str, Any]:
    """Writes the grown bundle below `folder` and checks it; returns what that took."""
    started_s = time.monotonic()
    bundle = reader.bundle
    items, users = reader.joined("item"), reader.joined("user")
    lines, facts = reader.clicks(users, items)
    knowledge, scratch = None, folder / "knowledge"
    if bundle.knowledge is not None:
        learning = Learning(
            config=reader.config,
            bundle=bundle,
            dataset=reader.dataset,
            items=items,
            users=users,
            folder=scratch,
            console=reader.console,
            make_engine=make_engine,
            make_encoder=make_encoder,
        )
        knowledge, cost = learning.run(lines)
        facts |= cost
    learnt_s = time.monotonic()
    write_refreshed(
        folder / "bundle",
        bundle,
        {"item": items.table, "user": with_clicks(users.table, lines)},
        knowledge,
        changed_items=items.row_G[~items.is_new_G],
        origin=origin,
    )
    shutil.rmtree(scratch, ignore_errors=True)
    unchanged = _unchanged(before, items, users, lines)
    after = Scorer.load(folder / "bundle")
    difference = check_refreshed(before, after, unchanged)
    for side, joined in (("items", items), ("users", users)):
        facts[f"new_{side}"] = int(joined.is_new_G.sum())
        facts[f"changed_{side}"] = int((~joined.is_new_G).sum())
    return {
        **facts,
        "longer_histories": int(lines.length_U.size),
        "largest_difference": difference,
        "knowledge_seconds": round(learnt_s - started_s, 3),
        "bundle_seconds": round(time.monotonic() - learnt_s, 3),
    }


def _unchanged(
    before: Scorer, items: Joined, users: Joined, lines: Timelines
) -> dict[Side, NDArray[np.int32]]:
    """The rows whose scores must stay: no click, nothing new about them, and no changed item in
    their histories."""
    same: dict[Side, NDArray[np.int32]] = {}
    same["item"] = np.setdiff1d(np.arange(1, items.num_before + 1, dtype=np.int32), items.row_G)
    row_U = np.arange(1, users.num_before + 1, dtype=np.int32)
    quiet_U = np.setdiff1d(row_U, np.concatenate([users.row_G, lines.user_row_U]))
    recent_UL, _ = before.recent(quiet_U)
    same["user"] = quiet_U[~np.isin(recent_UL, items.row_G).any(1)]
    return same


def _dataset(workspace: Path, bundle: Bundle) -> Dataset:
    """The prepared dataset that the model was trained on."""
    digest = bundle.fingerprints["dataset"]
    for folder in remote.listed(workspace / PREPARED, f"*-{digest[:8]}"):
        dataset = Dataset.open(folder)
        if dataset.fingerprint == digest:
            return dataset
    raise ArtifactError(
        f"{workspace / PREPARED} does not hold the dataset that {bundle.path} was trained on "
        f"({digest[:8]}), whose codes new rows take: use the workspace it was trained in"
    )


def _registered(registry: Registry, base: ModelVersion, artifact: Artifact) -> ModelVersion:
    """The version of this bundle, sealed last, as `history.enrol` does; `challenger` stays."""
    known = registry.find(base.model, artifact.fingerprint)
    if known is not None:
        return known
    facts = artifact.facts
    figures = {name: float(v) for name, v in facts.items() if isinstance(v, (int, float))}
    record = RunRecord(
        name=artifact.path.name,
        params={},
        metrics=figures,
        curves=(),
        tags={
            "stage": STAGE,
            "refreshed_from": str(base),
            **{f"refresh.{name}": str(value) for name, value in facts.items()},
        },
        plots=(),
    )
    version = registry.add(base.model, artifact.path / "bundle", record)
    registry.seal(version, artifact.fingerprint)
    return registry.resolve(base.model, version.number)


def _tell(
    facts: Mapping[str, Any], base: ModelVersion, made: ModelVersion, console: Console
) -> None:
    lines = [
        {"what": what, "new": f"{facts[new]:,}", "": note}
        for what, new, note in (
            ("clicks", "clicks", f"in {facts['longer_histories']:,} users' histories"),
            ("items", "new_items", f"{facts['changed_items']:,} changed"),
            ("users", "new_users", f"{facts['changed_users']:,} changed"),
            ("prompts asked", "prompts_asked", f"of {facts.get('prompts', 0):,}"),
            ("texts encoded", "texts_encoded", f"of {facts.get('texts', 0):,}"),
        )
        if new in facts
    ]
    console.table(f"{made} from {base}", lines)
    seconds = facts["knowledge_seconds"] + facts["bundle_seconds"]
    console.result(
        f"{made} is registered: {seconds:,.1f} s, of which {facts['knowledge_seconds']:,.1f} s for "
        f"tables and knowledge; scores of what did not change differ by at most "
        f"{facts['largest_difference']:.0e}",
        version=str(made),
        refreshed_from=str(base),
        refreshed=True,
        **facts,
    )


def _serve(
    registry: Registry,
    base: ModelVersion,
    made: ModelVersion,
    artifact: Artifact,
    console: Console,
) -> None:
    """Makes it the champion where it was made from the champion."""
    past = histories.current(registry, base.model)
    if past.champion == made.number:
        return
    if past.champion != base.number:
        console.note(
            f"{base} is not the champion, so {made} does not become it: `lorecast promote "
            f"--version {made.number}` lets the gate decide"
        )
        return
    facts = artifact.facts
    reason = (
        f"refresh of version {base.number}: {facts['clicks']:,} clicks, {facts['new_items']:,} "
        f"items and {facts['new_users']:,} users are new"
    )
    record = Record(action="refreshed", version=made.number, reason=reason)
    now = histories.move(registry, record, base.model, base.number)
    console.result(
        f"{made} is the champion; previous: version {now.previous}",
        champion=now.champion,
        previous=now.previous,
    )
