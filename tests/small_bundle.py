"""A trained model and its bundle without training: random weights over the tiny dataset."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from lorecast.artifacts import Artifact, StageSpec, build, write_json
from lorecast.config import ModelConfig, Side
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.knowledge.rows import KNOWLEDGE, SCHEMA
from lorecast.lifecycle.bundle import write_bundle
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import Chunk, KnowledgeShape
from lorecast.training.loop import predict

DIM = 16
CONFIG = ModelConfig()
CHUNKS: dict[Side, tuple[Chunk, ...]] = {
    "item": (Chunk("facts", "mood"), Chunk("facts", "theme")),
    "user": (Chunk("taste", "mood"),),
}


def write_vectors(workspace: Path, dataset: Dataset) -> VectorsTable:
    """Random vectors as `encode` writes them; every fifth entity lacks its first text."""
    rng, sure = np.random.default_rng(1), np.random.default_rng(2)
    sizes: dict[Side, int] = {
        "item": dataset.schema.num_items,
        "user": dataset.schema.num_users,
    }
    spec = StageSpec(
        stage="encode", name="tiny", identity={}, inputs={"knowledge": "0123456789abcdef"}
    )
    with build(workspace, spec) as draft:
        for side, rows in sizes.items():
            vectors = rng.normal(size=(rows + 1, len(CHUNKS[side]), DIM)).astype(np.float16)
            mask = np.ones(vectors.shape[:2], bool)
            mask[0] = mask[::5, 0] = False
            vectors[~mask] = 0
            np.save(draft.path / f"{side}.npy", vectors)
            np.save(draft.path / f"{side}_mask.npy", mask)
            certainty = sure.normal(size=mask.shape).astype(np.float16) * mask
            np.save(draft.path / f"{side}_certainty.npy", certainty)
        np.save(draft.path / "user_history_end.npy", dataset.history_end())
        draft.facts.update(
            dim=DIM,
            dataset=dataset.fingerprint,
            chunks={side: [chunk._asdict() for chunk in chunks] for side, chunks in CHUNKS.items()},
        )
    return VectorsTable.open(spec.folder(workspace))


def write_knowledge(workspace: Path, dataset: Dataset) -> Path:
    """The texts of these vectors, as `generate` writes them; some also of chunks without a vector.

    Returns the folder.
    """
    folder = workspace / "generate" / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    tables = []
    for side, chunks in CHUNKS.items():
        ids = (dataset.items() if side == "item" else dataset.users())["id"].to_pylist()
        for place, chunk in enumerate(chunks):
            lines = {column.name: pa.nulls(len(ids), column.type) for column in SCHEMA}
            lines |= {
                "side": [side] * len(ids),
                "row": range(1, len(ids) + 1),
                "id": ids,
                "field": [chunk.field] * len(ids),
                "factor": [chunk.factor] * len(ids),
                "chunk": [place] * len(ids),
                "text": [f"{chunk.factor} of {side} {id_}, <b>bold</b>" for id_ in ids],
                "status": ["refused", *["ok"] * (len(ids) - 1)],
                "weight": [1.0] * len(ids),
            }
            tables.append(pa.table(lines).cast(SCHEMA))
    pq.write_table(pa.concat_tables(tables).sort_by("row"), folder / KNOWLEDGE)
    return folder


def make_model(
    dataset: Dataset,
    vectors: VectorsTable | None,
    seed: int = 0,
    config: ModelConfig = CONFIG,
) -> ClickModel:
    """A model with random weights, ready to score."""
    torch.manual_seed(seed)
    model = ClickModel(config, dataset.schema, _shape(vectors))
    model.attach(*feature_tables(dataset), vectors)
    return model.eval()


def write_trained(
    workspace: Path,
    model: ClickModel,
    dataset: Dataset,
    vectors: VectorsTable | None,
    config: ModelConfig = CONFIG,
) -> Artifact:
    """What `train` leaves of `model`."""
    shape = _shape(vectors)
    strategy = "all_parameters" if vectors else "base"
    spec = StageSpec(
        stage="train",
        name=f"tiny-{strategy}-s0",
        identity={"strategy": strategy},
        inputs={"dataset": dataset.fingerprint},
    )
    with build(workspace, spec) as draft:
        save_file(model.state_dict(), draft.path / "weights.safetensors")
        write_json(
            draft.path / "model.json",
            {
                "config": config.model_dump(mode="json"),
                "schema": vars(dataset.schema),
                "knowledge": shape.to_dict() if shape else None,
                "strategy": strategy,
                "seed": 0,
            },
        )
        scores = predict(model, Batch.of(load_samples(dataset, "test")))
        pq.write_table(pa.table({"score": scores}), draft.path / "scores.parquet")
        write_json(draft.path / "curves.json", [{"train_loss": 0.7, "valid": {"auc": 0.6}}])
        draft.facts.update(
            strategy=strategy,
            metrics={split: {"auc": 0.6, "log_loss": 0.7, "gauc": 0.6} for split in _SPLITS},
            best_epoch=0,
            epochs=1,
            seconds=1.0,
            rows_per_second=100.0,
            parameters=1000,
        )
    return Artifact.open(spec.folder(workspace))


def write_small_bundle(
    workspace: Path,
    dataset: Dataset,
    *,
    knowledge: bool = True,
    texts: bool = False,
    seed: int = 0,
) -> Path:
    """The bundle of such a model, with its `texts` or without; its folder."""
    vectors = write_vectors(workspace, dataset) if knowledge else None
    model = make_model(dataset, vectors, seed)
    folder = workspace / "bundle"
    write_bundle(
        folder,
        write_trained(workspace, model, dataset, vectors),
        dataset,
        vectors,
        knowledge=write_knowledge(workspace, dataset) if texts else None,
    )
    return folder


_SPLITS = ("valid", "test")


def _shape(vectors: VectorsTable | None) -> KnowledgeShape | None:
    if vectors is None:
        return None
    chunks = {side: tuple(Chunk(*name) for name in vectors.chunks(side)) for side in CHUNKS}
    return KnowledgeShape(dim=vectors.dim, item_chunks=chunks["item"], user_chunks=chunks["user"])
