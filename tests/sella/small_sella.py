"""A SeLLa model without training: random adapters and tokens over the tiny dataset."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lorecast.artifacts import Artifact, StageSpec, build, write_json
from lorecast.config import SellaConfig
from lorecast.config.sella import Method
from lorecast.data.dataset import Dataset
from lorecast.knowledge.language_model import find_language_model
from lorecast.lifecycle.sella_bundle import write_sella_bundle
from lorecast.sella import saved
from lorecast.sella.methods import switches
from lorecast.sella.recipe import Setting
from lorecast.sella.rows import PromptRows
from lorecast.sella.stages import card

CONFIG = SellaConfig.model_validate(
    {"lora": {"rank": 4}, "align": {"dim": 8, "hidden": 16}, "prompt": {"history_titles": 4}}
)
_POSITIVE_RATING = 4.0


def write_sella(
    workspace: Path, dataset: Dataset, llm: Path, method: Method = "sella", valid_auc: float = 0.6
) -> tuple[Artifact, Artifact]:
    """What the last training of a method leaves, and its scores of the test part."""
    found = find_language_model(str(llm))
    setting = Setting(
        config=CONFIG,
        positive_rating=_POSITIVE_RATING,
        source=found.source,
        digest=found.digest,
    )
    described = card(setting, dataset, switches(method))
    language = described.load_language()
    language.add_adapters(CONFIG.lora)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in language.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    sizes = (dataset.schema.num_users, dataset.schema.num_items)
    guide = described.new_guide(*sizes, language.width)
    inputs = {"dataset": dataset.fingerprint, "llm": found.digest}
    spec = StageSpec(stage="sella-guide", name=f"tiny-{method}-s0", identity={}, inputs=inputs)
    valid = {"auc": valid_auc, "uauc": 0.6, "log_loss": 0.7}
    with build(workspace, spec) as draft:
        language.save_adapters(draft.path)
        saved.write(draft.path, described, dataset, None, guide)
        write_json(draft.path / "curves.json", [{"check": 1, "train_loss": 0.7, **valid}])
        draft.facts.update(
            valid=valid,
            best_check=1,
            checks=1,
            train_seconds=1.0,
            rows_per_second=100.0,
            trained_parameters=1000,
        )
    trained = Artifact.open(spec.folder(workspace))
    rows = PromptRows.load(dataset, "test", CONFIG, _POSITIVE_RATING)
    scores = saved.load(trained.path).probabilities(rows, batch_size=64)
    scored = StageSpec(
        stage="sella-score",
        name=f"tiny-{method}-s0",
        identity={},
        inputs={"model": trained.fingerprint},
    )
    with build(workspace, scored) as draft:
        pq.write_table(pa.table({"score": scores}), draft.path / "scores.parquet")
        draft.facts.update(
            method=method,
            seed=0,
            model=str(trained.path.relative_to(workspace)),
            metrics={"valid": valid, "test": valid},
        )
    return trained, Artifact.open(scored.folder(workspace))


def write_small_sella_bundle(
    workspace: Path,
    dataset: Dataset,
    llm: Path,
    method: Method = "sella",
    *,
    most_mib: float = 512.0,
) -> tuple[Path, np.ndarray]:
    """The bundle's folder, and its model's scores of the test part."""
    trained, scored = write_sella(workspace, dataset, llm, method)
    folder = workspace / "sella-bundle"
    write_sella_bundle(folder, trained, scored, dataset, most_mib=most_mib)
    return folder, pq.read_table(scored.path / "scores.parquet")["score"].to_numpy()
