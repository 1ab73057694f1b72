"""What SeLLa's stages do on the cluster: training workers, actors for vectors and scores."""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lorecast import remote
from lorecast.artifacts import Artifact, build, find
from lorecast.data.dataset import Dataset
from lorecast.errors import TrainingError
from lorecast.jobs.blocks import Columns, map_blocks, open_block, thread_environment, write_blocks
from lorecast.jobs.console import Console
from lorecast.jobs.relay import Wire
from lorecast.jobs.sella_plans import Model, Plan, Plans
from lorecast.jobs.workers import run_workers
from lorecast.sella.rows import PromptRows

ScoreRows: TypeAlias = Callable[[PromptRows], NDArray[np.float32]]

_BLOCK_ROWS = 4096


def train(plans: Plans, wanted: Sequence[Plan], console: Console) -> None:
    """Does the trainings that are missing, one after the other, in one group of workers."""
    once = {plan.spec.fingerprint: plan for plan in wanted}
    missing = [plan for plan in once.values() if find(plans.workspace, plan.spec) is None]
    if not missing:
        return
    compute = plans.experiment.compute
    task = {
        "workspace": plans.workspace,
        "dataset": plans.dataset.path.resolve(),
        "setting": plans.setting,
        "missing": missing,
        "threads": compute.threads or max(1, (os.cpu_count() or 1) // compute.train_workers),
        "checkpoint_s": compute.checkpoint_s,
    }
    run_workers(_train, task, compute, console, name="sella")


def _train(task: Mapping[str, Any]) -> None:
    """Runs in each worker."""
    import ray.train
    import torch

    from lorecast.sella.stages import train as train_stage
    from lorecast.training.checkpoints import Checkpoints

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task["threads"])
    wire = Wire(task["mailbox"] if rank == 0 else None)
    dataset, workspace = Dataset.open(task["dataset"]), task["workspace"]
    # After a restart some are finished; all workers look before one finishes the next.
    missing = [plan for plan in task["missing"] if find(workspace, plan.spec) is None]
    for plan in missing:
        if world > 1:
            torch.distributed.barrier()  # what rank 0 wrote may be this one's input
        checkpoint = workspace / plan.spec.stage / ".checkpoints" / plan.spec.fingerprint
        figures: dict[str, float] = {}

        def fit(
            plan: Plan = plan, checkpoint: Path = checkpoint, figures: dict[str, float] = figures
        ) -> Any:
            return train_stage(
                plan.stage,
                task["setting"],
                dataset,
                ray.train.torch.get_device(),
                checkpoints=Checkpoints(
                    checkpoint.with_suffix(".safetensors"), task["checkpoint_s"]
                ),
                begin=lambda rows: wire.begin(f"{plan.spec.stage} {plan.spec.name}", rows),
                on_rows=lambda rows: wire.advance(rows, **figures),
                on_check=lambda check: figures.update(valid_auc=check["auc"]),
            )

        if rank > 0:
            fit()
            continue
        with build(workspace, plan.spec) as draft:
            draft.facts.update(fit()(draft.path))
        remote.discard(checkpoint.with_suffix(".safetensors"))


def write_vectors(plans: Plans, seeds: Collection[int | None], console: Console) -> None:
    """The items' semantic vectors by the models tuned with these seeds, those that are missing."""
    from lorecast.sella.stages import write_vectors as write

    titles = plans.dataset.items()["title"]
    titled = pc.fill_null(pc.not_equal(titles, ""), False)
    texts = pa.table({"place": np.flatnonzero(titled.to_numpy()), "title": titles.filter(titled)})
    for seed in seeds:
        spec = plans.vectors(seed)
        if find(plans.workspace, spec) is not None:
            continue
        if not texts.num_rows:
            raise TrainingError("no item has a title: name its column in dataset.items.title")
        tuned = None if seed is None else plans.tune(seed).spec.folder(plans.workspace)
        with build(plans.workspace, spec) as draft:
            arguments = {"setting": plans.setting, "tuned": tuned}
            made = _on_blocks(plans, texts, _VectorWorker, arguments, "vectors", console)
            found = {int(place): row_H for place, row_H in made}
            dim = len(next(iter(found.values())))
            state_RH = np.zeros((len(titles) + 1, dim), np.float32)
            has_title_R = np.zeros(len(state_RH), bool)
            rows = np.fromiter(found, np.int64, len(found)) + 1
            state_RH[rows], has_title_R[rows] = np.stack(list(found.values())), True
            write(draft.path, state_RH, has_title_R)
            draft.facts.update(items=len(titles), with_title=len(found), dim=dim)


class _VectorWorker:
    """An actor with a language model that reads titles."""

    def __init__(self, setting: Any, tuned: Path | None) -> None:
        self._setting, self._tuned = setting, tuned
        self._language: Any = None

    def __call__(self, batch: Columns) -> Columns:
        from lorecast.sella import stages

        block = open_block(batch, TrainingError)
        if self._language is None:
            self._language = stages.language_of(self._setting, self._tuned, _device())
        vector_NH = stages.semantic_vectors(
            self._language, self._setting.config, block["title"].to_pylist()
        )
        return {"place": block["place"].to_numpy(), "value": vector_NH}


def score(plans: Plans, models: Sequence[Model], console: Console) -> None:
    """Scores the test part by the models whose scores are missing."""
    from lorecast.sella.fitting import figures

    missing = [model for model in models if find(plans.workspace, plans.score(model)) is None]
    if not missing:
        return
    positive = plans.experiment.dataset.positive_rating
    rows = PromptRows.load(plans.dataset, "test", plans.config, positive)
    for model in missing:
        trained = Artifact.open(plans.last(model).spec.folder(plans.workspace))
        with build(plans.workspace, plans.score(model)) as draft:
            score_B, seconds = _scores(plans, model, trained, rows, console)
            columns = {
                "user_row": rows.user_row_B,
                "item_row": rows.item_row_B,
                "label": rows.label_B.astype(np.int8),
                "score": score_B,
            }
            pq.write_table(pa.table(columns), draft.path / "scores.parquet")
            test = figures(rows.user_row_B, rows.label_B, score_B)
            draft.facts.update(
                method=model.method,
                seed=model.seed,
                model=str(trained.path.relative_to(plans.workspace)),
                metrics={"valid": trained.facts["valid"], "test": test},
                engine=plans.config.score_engine if model.switches.language_model else None,
                rows_per_second=round(len(rows) / seconds, 1),
            )


def _scores(
    plans: Plans, model: Model, trained: Artifact, rows: PromptRows, console: Console
) -> tuple[NDArray[np.float32], float]:
    """Probabilities in the rows' order, and what they took in seconds, actors' start included."""
    from lorecast.sella.collaborative import probabilities
    from lorecast.sella.stages import read_tables

    started_s = time.monotonic()
    if not model.switches.language_model:
        score_B = probabilities(*read_tables(trained.path), rows)
        return score_B, time.monotonic() - started_s
    test = pa.table(
        {
            "place": np.arange(len(rows)),
            "user_row": rows.user_row_B,
            "item_row": rows.item_row_B,
            "liked": list(rows.liked_BM),
        }
    )
    start, environment = _scoring(plans, trained.path)
    name = f"score {model.method}"
    score_B = np.empty(len(rows), np.float32)
    for place, value in _on_blocks(
        plans, test, _ScoringWorker, {"start": start}, name, console, environment
    ):
        score_B[place] = value
    return score_B, time.monotonic() - started_s


def _scoring(plans: Plans, folder: Path) -> tuple[Callable[[], ScoreRows], dict[str, str]]:
    """What starts the configured engine in an actor, and the variables it needs there."""
    config, on_gpu = plans.config, plans.experiment.compute.train_gpus
    if config.score_engine == "torch":
        return partial(_by_torch, folder, config.score_batch), {}
    from lorecast.jobs import sella_vllm, vllm_engine

    vllm_engine.check_installed()
    variables = vllm_engine.environment(plans.language_model, float(on_gpu))
    return partial(sella_vllm.scoring, folder, config.score_batch, on_gpu=on_gpu), variables


def _by_torch(folder: Path, batch_size: int) -> ScoreRows:
    from lorecast.sella.scorer import SellaScorer

    return SellaScorer.load(folder, _device(), batch_size).score_rows


class _ScoringWorker:
    """An actor with a trained model."""

    def __init__(self, start: Callable[[], ScoreRows]) -> None:
        self._start = start
        self._score: ScoreRows | None = None

    def __call__(self, batch: Columns) -> Columns:
        block = open_block(batch, TrainingError)
        if self._score is None:
            self._score = self._start()
        rows = PromptRows(
            user_row_B=block["user_row"].to_numpy(),
            item_row_B=block["item_row"].to_numpy(),
            liked_BM=np.stack(block["liked"].to_numpy()),
            label_B=np.zeros(len(block), np.float32),
        )
        return {"place": block["place"].to_numpy(), "value": self._score(rows)}


def _on_blocks(
    plans: Plans,
    table: pa.Table,
    worker: type,
    arguments: Mapping[str, Any],
    name: str,
    console: Console,
    variables: Mapping[str, str] | None = None,
) -> list[tuple[Any, Any]]:
    """Places and values of all rows, as actors return them."""
    compute, made = plans.experiment.compute, list[tuple[Any, Any]]()
    environment = thread_environment(compute, plans.config.scorers) | dict(variables or {})
    if plans.language_model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    with TemporaryDirectory(dir=plans.workspace, prefix=".sella-rows-") as scratch:
        results = map_blocks(
            write_blocks([table], Path(scratch), _BLOCK_ROWS),
            worker,
            arguments,
            compute,
            actors=plans.config.scorers,
            gpus=1.0 if compute.train_gpus else 0.0,
            environment=environment,
        )
        with closing(results), console.progress(name, table.num_rows) as task:
            for block in results:
                made += zip(block["place"], block["value"], strict=True)
                task.advance(len(block["place"]))
    return made


def _device() -> Any:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
