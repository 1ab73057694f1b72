"""The trained stages, each from its inputs' folders to its own files. Free of Ray.

    tune     adapters that make the language model say Yes or No       a model that scores by text
    align    tables.safetensors: user, item, and with alignment projection.* and semantic
    guide    tokens before the frozen language model                   a model that scores by all

`tune` and `guide` write what `saved` describes; all write curves.json.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from lorecast.artifacts import write_json
from lorecast.config import SellaConfig
from lorecast.config.sella import ScheduleConfig
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.errors import TrainingError
from lorecast.sella import saved
from lorecast.sella.collaborative import CollaborativeLearner, CollaborativeModel
from lorecast.sella.fitting import Fit, Schedule, fit
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import Switches, switches
from lorecast.sella.prompts import cut
from lorecast.sella.recipe import Setting, Stage
from lorecast.sella.rows import PromptRows, trained_rows
from lorecast.sella.shares import Workers
from lorecast.sella.yes_no import YesNoLearner, YesNoModel
from lorecast.training.checkpoints import Checkpoints

TABLES = "tables.safetensors"
VECTORS = "vectors.safetensors"
_VALID_SEED = 0


def train(
    stage: Stage,
    setting: Setting,
    dataset: Dataset,
    device: torch.device,
    *,
    checkpoints: Checkpoints | None = None,
    begin: Callable[[int], None] = lambda _: None,
    on_rows: Callable[[int], None] = lambda _: None,
    on_check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Callable[[Path], dict[str, Any]]:
    """Trains a stage; returns what writes its files to a folder and gives its facts.

    `begin` hears how many rows there are to train. Raises TrainingError if it cannot be trained.
    """
    torch.manual_seed(stage.seed)
    make = {"tune": _tune, "align": _align, "guide": _guide}[stage.kind]
    learner, schedule, write = make(stage, setting, dataset, device)
    begin(len(learner) * schedule.epochs)
    trained = fit(
        learner,
        schedule,
        seed=stage.seed,
        checkpoints=checkpoints,
        on_rows=on_rows,
        on_check=on_check,
    )

    def finish(folder: Path) -> dict[str, Any]:
        write_json(folder / "curves.json", list(trained.checks))
        return _facts(trained, learner) | write(folder)

    return finish


def language_of(setting: Setting, tuned: Path | None, device: torch.device) -> AnsweringModel:
    """The language model with the adapters of stage 1 (none: as it comes)."""
    config = setting.config
    language = AnsweringModel.load(setting.source, config.revision, config.dtype)
    if tuned is not None:
        language.load_adapters(tuned)
    return language.to(device)


def semantic_vectors(
    language: AnsweringModel, config: SellaConfig, titles: Sequence[str]
) -> NDArray[np.float32]:
    """What the model makes of these titles, [titles, H]; the published code lost the fractions."""
    most = config.prompt.title_tokens
    texts = [
        config.prompt.vector.replace("{title}", cut(language.tokenizer, title, most))
        for title in titles
    ]
    state_NH = language.last_states(texts, config.score_batch)
    return np.trunc(state_NH) if config.faithful else state_NH


def write_vectors(
    folder: Path, state_RH: NDArray[np.float32], has_title_R: NDArray[np.bool_]
) -> None:
    """Vectors by item row; rows without a title get the others' mean (published: random ones)."""
    save_arrays({"semantic": state_RH, "has_title": has_title_R}, folder / VECTORS)


def read_tables(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Users and items of an `align` stage, [R, D] each."""
    tables = load_arrays(folder / TABLES)
    return tables["user"], tables["item"]


def read_vectors(folder: Path, *, faithful: bool) -> NDArray[np.float32]:
    """Vectors by item row, [R, H]."""
    arrays = load_arrays(folder / VECTORS)
    semantic_RH: NDArray[np.float32] = arrays["semantic"]
    missing_R = ~arrays["has_title"]
    if faithful:
        shape = (int(missing_R.sum()), semantic_RH.shape[1])
        semantic_RH[missing_R] = np.random.default_rng(_VALID_SEED).random(shape)
    else:
        semantic_RH[missing_R] = semantic_RH[~missing_R].mean(0)
    return semantic_RH


def card(setting: Setting, dataset: Dataset, method: Switches) -> saved.Card:
    """How a method's model is built anew."""
    config = setting.config
    return saved.Card(
        source=setting.source,
        revision=config.revision,
        digest=setting.digest,
        dtype=config.dtype,
        prompt=config.prompt,
        method=method,
        align=config.align,
        guide=config.guide,
        faithful=config.faithful,
        positive_rating=setting.positive_rating,
        rating_levels=dataset.rating_levels,
        rates_histories=dataset.rates_histories,
    )


Made = tuple[Any, Schedule, Callable[[Path], dict[str, Any]]]


def _tune(stage: Stage, setting: Setting, dataset: Dataset, device: torch.device) -> Made:
    config = setting.config
    text = switches("text")
    described = card(setting, dataset, text)
    language = described.load_language()
    language.add_adapters(config.lora)
    prompts = described.new_prompts(language.tokenizer, _titles(dataset))
    _save_memory(language, config)
    learner = _learner(YesNoModel(language, prompts, None), config.tune, stage, setting, dataset)

    def write(folder: Path) -> dict[str, Any]:
        language.save_adapters(folder)
        saved.write(folder, described, dataset, None, None)
        return {"note": prompts.frame.note}

    return learner.to(device), _schedule(config.tune, config), write


def _align(stage: Stage, setting: Setting, dataset: Dataset, device: torch.device) -> Made:
    config = setting.config
    semantic_RH = None
    if stage.vectors is not None:
        semantic_RH = read_vectors(stage.vectors, faithful=config.faithful)
    model = CollaborativeModel(
        config.align,
        dataset.schema.num_users,
        dataset.schema.num_items,
        semantic_RH,
        faithful=config.faithful,
    )
    train_rows = _rows(dataset, "train", setting)
    model.connect(train_rows)
    learner = CollaborativeLearner(model, train_rows, _rows(dataset, "valid", setting))
    align = config.align
    schedule = Schedule(
        epochs=align.epochs,
        checks=1,
        batch_size=align.batch_size,
        learning_rate=align.learning_rate,
        weight_decay=align.weight_decay,
        decays=False,
        patience=align.patience,
        clip=None,
        coupled=config.faithful,
    )

    def write(folder: Path) -> dict[str, Any]:
        user_RD, item_RD = model.learned()
        state = {"user": user_RD, "item": item_RD}
        if model.projection is not None:
            state |= {f"projection.{k}": v for k, v in model.projection.state_dict().items()}
            state["semantic"] = model.semantic
        state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        save_file(state, folder / TABLES)
        return {}

    return learner.to(device), schedule, write


def _guide(stage: Stage, setting: Setting, dataset: Dataset, device: torch.device) -> Made:
    config = setting.config
    described = card(setting, dataset, stage.method)
    language = described.load_language()
    if stage.tuned is None:
        language.add_adapters(config.lora)
    else:
        language.load_adapters(stage.tuned)
    sizes = (dataset.schema.num_users, dataset.schema.num_items)
    guide = described.new_guide(*sizes, language.width)
    assert guide is not None, "a method without tokens ends with stage 1"
    everything = _rows(dataset, "train", setting)
    known = {
        "user": torch.from_numpy(trained_rows(everything.user_row_B, sizes[0])),
        "item": torch.from_numpy(trained_rows(everything.item_row_B, sizes[1])),
    }
    length = language.embedding_length() if config.guide.norm_match else None
    guide.start(_tables(stage, config), known, length)
    prompts = described.new_prompts(language.tokenizer, _titles(dataset))
    model = YesNoModel(language, prompts, guide)
    whole = None if stage.tuned is None else language.digest()
    _save_memory(language, config)
    before = None if stage.tuned is None else language.digest()
    learner = _learner(model, config.guide, stage, setting, dataset).to(device)

    def write(folder: Path) -> dict[str, Any]:
        if stage.tuned is None:
            language.save_adapters(folder)
        elif language.digest() != before:
            raise TrainingError("stage 3 changed the language model, which is frozen: a bug")
        saved.write(folder, described, dataset, stage.tuned or folder, guide)
        scales = {f"scale_{name}": value.item() for name, value in guide.scale.items()}
        return {"language_model": whole, "note": prompts.frame.note, **scales}

    return learner, _schedule(config.guide, config), write


def _save_memory(language: AnsweringModel, config: SellaConfig) -> None:
    if config.gradient_checkpointing:
        language.recompute()
    if config.sharding == "fsdp" and Workers.current().count > 1:
        language.shard()


def _tables(stage: Stage, config: SellaConfig) -> dict[str, Tensor]:
    tables: dict[str, Tensor] = {}
    if stage.vectors is not None:
        semantic_RH = read_vectors(stage.vectors, faithful=config.faithful)
        tables["semantic"] = torch.from_numpy(semantic_RH)
    if stage.aligned is not None:
        tables |= load_file(stage.aligned / TABLES)
    return tables


def _learner(
    model: YesNoModel,
    schedule: ScheduleConfig,
    stage: Stage,
    setting: Setting,
    dataset: Dataset,
) -> YesNoLearner:
    rows = _rows(dataset, "train", setting)
    if setting.config.faithful:
        rows = rows.with_history()
    rows = rows.draw(schedule.rows, stage.seed, whole="prefix")
    valid = _rows(dataset, "valid", setting)
    valid = valid.draw(setting.config.valid_rows, _VALID_SEED, whole="user")
    return YesNoLearner(model, rows, valid, setting.config.score_batch)


def _schedule(section: ScheduleConfig, config: SellaConfig) -> Schedule:
    return Schedule(
        epochs=section.epochs,
        checks=section.checks,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        warmup=section.warmup,
        micro_batch=config.micro_batch,
    )


def _rows(dataset: Dataset, split: Split, setting: Setting) -> PromptRows:
    rows = PromptRows.load(dataset, split, setting.config, setting.positive_rating)
    if rows.label_B.min() == rows.label_B.max():
        raise TrainingError(
            f"every label of the {split} part is {rows.label_B[0]:.0f}, and both 0 and 1 are "
            "needed: check dataset.positive_rating or the label column"
        )
    return rows


def _titles(dataset: Dataset) -> list[str | None]:
    titles: list[str | None] = pq.read_table(dataset.path / "items.parquet")["title"].to_pylist()
    return titles


def _facts(trained: Fit, learner: Any) -> dict[str, Any]:
    return {
        "valid": trained.valid,
        "best_check": trained.best,
        "checks": len(trained.checks),
        "train_seconds": round(sum(check["train_s"] for check in trained.checks), 3),
        "rows_per_second": round(trained.rows_per_second, 1),
        "rows": len(learner),
        "trained_parameters": sum(p.numel() for p in learner.parameters() if p.requires_grad),
    }
