"""show: what is known about one entity, and where each text comes from."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lorecast.artifacts import find
from lorecast.config import ExperimentConfig, Side
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, InputError
from lorecast.jobs import engines
from lorecast.jobs.console import Console
from lorecast.jobs.generate import stage_spec
from lorecast.knowledge import rows
from lorecast.knowledge.plan import questions
from lorecast.knowledge.store import FOLDER, KnowledgeStore

_MAX_NAMED = 3


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    console: Console,
    *,
    item: str | None = None,
    user: str | None = None,
) -> None:
    """Prints the texts of one item or user with status, model, time and key.

    Those of the experiment, or, before its knowledge is finished, what the store has under the id.
    Raises ConfigError unless exactly one id is given, and InputError if the dataset lacks it.
    """
    if (item is None) == (user is None):
        raise ConfigError("knowledge show: give either --item ID or --user ID")
    side: Side = "user" if item is None else "item"
    entity_id = user if item is None else item
    entities = dataset.items() if side == "item" else dataset.users()
    found = entities.filter(pc.equal(entities["id"], entity_id)).to_pylist()
    if not found:
        known = ", ".join(entities["id"][:_MAX_NAMED].to_pylist())
        raise InputError(f"no {side} {entity_id!r} in the dataset; its ids look like {known}")
    described = {
        name: found[0][name]
        for name in (["title"] if side == "item" else []) + list(dataset.text_columns[side])
    }
    words = ", ".join(f"{name}: {value}" for name, value in described.items())
    console.heading(f"{side} {entity_id} ({words})")
    texts = _of_experiment(config, dataset, side, str(entity_id))
    if texts is None:
        console.note("the experiment's knowledge is not finished; this is what the store has")
        texts = _of_store(config, side, str(entity_id))
    lines = [
        {
            "field": row["field"],
            "factor": row["factor"],
            "text": row["text"] if row["status"] == "ok" else f"({row['status']}) {row['reason']}",
            "from": _origin(row),
        }
        for row in texts.to_pylist()
    ]
    console.table(f"{len(lines):,} texts", lines)


def _origin(row: dict[str, object]) -> str:
    if row.get("model") is None:
        return "imported"
    seen = "" if row["history_end"] is None else f", history to {row['history_end']}"
    group = f"{row['asked']}, " if str(row["asked"]).startswith("group ") else ""
    model = "/".join(Path(str(row["model"])).parts[-2:])
    return f"{group}{model}, {row['time']:%Y-%m-%d %H:%M}{seen}, key {str(row['key'])[:8]}"


def _of_experiment(
    config: ExperimentConfig, dataset: Dataset, side: Side, entity_id: str
) -> pa.Table | None:
    asked = questions(config.knowledge.fields)
    model = engines.find_model(config) if asked else None
    workspace = config.compute.folder
    artifact = find(workspace, stage_spec(config, dataset, asked, model))
    if artifact is None:
        return None
    of_entity = (pc.field("side") == side) & (pc.field("id") == entity_id)
    texts = pq.read_table(artifact.path / rows.KNOWLEDGE, filters=of_entity)
    generated = texts.filter(texts["key"].is_valid())
    stored = KnowledgeStore(workspace / FOLDER).index().fetch(generated["key"].combine_chunks())
    for name, source in (("model", "model"), ("time", "time"), ("asked", "id")):
        generated = generated.append_column(name, stored[source])
    imported = texts.filter(texts["key"].is_null())
    return pa.concat_tables([generated, imported], promote_options="default")


def _of_store(config: ExperimentConfig, side: Side, entity_id: str) -> pa.Table:
    index = KnowledgeStore(config.compute.folder / FOLDER).index()
    of_entity = (pc.field("side") == side) & (pc.field("id") == entity_id)
    found = [table.filter(of_entity) for table in index.tables()]
    table = pa.concat_tables(found) if found else pa.table({"id": pa.array([], pa.string())})
    return table.append_column("asked", table["id"])
