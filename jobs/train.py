"""Trains click models under Ray Train and writes one artifact a model.

Starting a worker group takes seconds, so all models that are missing train one after another in
one group. With several workers each reads its shard, gradients are averaged (DDP), and rank 0
measures and writes. The workspace must be reachable from the workers: there a training that is
under way keeps its checkpoint, from which new workers, or the next run of the command, go on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lorecast import remote
from lorecast.artifacts import Artifact, StageSpec, build, find
from lorecast.config import ExperimentConfig, Strategy
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.jobs.console import Console
from lorecast.jobs.relay import Wire
from lorecast.jobs.workers import run_workers
from lorecast.training.recipe import CHOSEN_ON_TEST, Recipe
from lorecast.training.transfer import extractor_source

STAGE = "train"
THREADS = 1
"""A click model gains little from more, and loses several times over beside a busy neighbour."""


def run(
    config: ExperimentConfig,
    dataset: Dataset,
    vectors: VectorsTable | None,
    strategy: Strategy,
    seed: int,
    console: Console,
) -> Artifact:
    """One trained model; see `lorecast.training.trainer` for its files.

    Raises TrainingError, LeakageError or EncodingError if it cannot be trained on these inputs.
    """
    return run_all(config, dataset, vectors, [(strategy, seed)], console)[0]


def run_all(
    config: ExperimentConfig,
    dataset: Dataset,
    vectors: VectorsTable | None,
    models: Sequence[tuple[Strategy, int]],
    console: Console,
) -> list[Artifact]:
    """As `run`, for several models (strategy, seed); `vectors` may be None if all are `base`."""
    recipes = [
        Recipe(model=config.model, training=config.training, strategy=strategy, seed=seed)
        for strategy, seed in models
    ]
    return run_recipes(config, dataset, vectors, recipes, console)


def run_recipes(
    config: ExperimentConfig,
    dataset: Dataset,
    vectors: VectorsTable | None,
    recipes: Sequence[Recipe],
    console: Console,
) -> list[Artifact]:
    """As `run_all`, for models that differ in more than strategy and seed."""
    workspace = config.compute.folder
    recipes = [with_local_backbone(config, recipe, dataset) for recipe in recipes]
    specs = [spec_of(config.name, recipe, dataset, vectors) for recipe in recipes]
    # Backbones come before what is built on them.
    bases = [r.base for r in recipes if r.is_injected and not r.is_pretrained]
    wanted = [(recipe, spec_of(config.name, recipe, dataset, None)) for recipe in bases]
    wanted += zip(recipes, specs, strict=True)
    once = {spec.fingerprint: (recipe, spec) for recipe, spec in wanted}
    missing = [(recipe, spec) for recipe, spec in once.values() if find(workspace, spec) is None]
    if missing:
        uses_knowledge = any(recipe.uses_knowledge for recipe, _ in missing)
        if vectors is not None and uses_knowledge:
            vectors.check(dataset)
        if any(recipe.protocol == "kar" for recipe, _ in missing):
            console.note(
                "training.protocol is 'kar': trained on train and valid, each epoch "
                f"{CHOSEN_ON_TEST}; for comparison with published figures only"
            )
        _train(config, dataset, vectors if uses_knowledge else None, missing, console)
    return [Artifact.open(spec.folder(workspace)) for spec in specs]


def spec_of(name: str, recipe: Recipe, dataset: Dataset, vectors: VectorsTable | None) -> StageSpec:
    """The artifact that training `recipe` makes."""
    inputs = {"dataset": dataset.fingerprint}
    if recipe.uses_knowledge:
        assert vectors is not None, "a model with knowledge needs vectors"
        inputs["vectors"] = Artifact.open(vectors.path).fingerprint
        if recipe.is_transfer:
            source = extractor_source(recipe, inputs["dataset"], inputs["vectors"])
            inputs["extractor"] = source.fingerprint
    if recipe.is_pretrained:
        from lorecast.lifecycle.pretrained import Pretrained

        inputs["base"] = Pretrained.open(Path(str(recipe.training.backbone_from))).fingerprint
    elif recipe.is_injected:
        inputs["base"] = spec_of(name, recipe.base, dataset, None).fingerprint
    return StageSpec(
        stage=STAGE, name=f"{name}-{recipe.label}", identity=recipe.identity(), inputs=inputs
    )


def _train(
    config: ExperimentConfig,
    dataset: Dataset,
    vectors: VectorsTable | None,
    missing: Sequence[tuple[Recipe, StageSpec]],
    console: Console,
) -> None:
    workspace = config.compute.folder.resolve()
    task = {
        "workspace": workspace,
        "dataset": dataset.path.resolve(),
        "vectors": vectors and vectors.path.resolve(),
        "missing": [
            (recipe, spec, base_folder(config, recipe, dataset)) for recipe, spec in missing
        ],
        "threads": config.compute.threads,
        "checkpoint_s": config.compute.checkpoint_s,
        "compiles": config.compute.train_compile,
        "most_bytes": int(config.compute.train_memory_gib * 2**30),
    }
    run_workers(_work, task, config.compute, console, name=STAGE)


def base_folder(config: ExperimentConfig, recipe: Recipe, dataset: Dataset) -> Path | None:
    """Where the backbone lies, or will lie, that an extractor acts on; or the model whose extractor
    is used."""
    if recipe.is_transfer and recipe.model.extractor_from is not None:
        return Path(recipe.model.extractor_from).resolve()
    if recipe.is_pretrained:
        return Path(str(recipe.training.backbone_from))
    if not recipe.is_injected:
        return None
    workspace = config.compute.folder.resolve()
    return spec_of(config.name, recipe.base, dataset, None).folder(workspace)


def with_local_backbone(config: ExperimentConfig, recipe: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with `training.backbone_from` as a folder that holds what fits, if it has one."""
    if not recipe.is_pretrained:
        return recipe
    from lorecast.lifecycle.mlflow_registry import open_registry
    from lorecast.lifecycle.pretrained import Pretrained, fetch

    downloads = config.compute.folder / "pretrained"
    folder = fetch(str(recipe.training.backbone_from), open_registry(config), downloads)
    Pretrained.open(folder).check(recipe, dataset)
    training = recipe.training.model_copy(update={"backbone_from": str(folder.resolve())})
    return replace(recipe, training=training)


def _work(task: Mapping[str, Any]) -> None:
    """Runs in each worker."""
    import ray.train
    import torch

    from lorecast.training.checkpoints import Checkpoints
    from lorecast.training.splits import Splits
    from lorecast.training.trainer import TrainedModel, new_model, train, write

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(task["threads"] or THREADS)
    device = ray.train.torch.get_device()
    wire = Wire(task["mailbox"] if rank == 0 else None)
    dataset = Dataset.open(task["dataset"])
    vectors = VectorsTable.open(task["vectors"]) if task["vectors"] else None
    splits = {
        protocol: Splits.load(
            dataset,
            vectors,
            protocol=protocol,
            shard=rank,
            num_shards=world,
            device=device,
            most_bytes=task["most_bytes"],
        )
        for protocol in {recipe.protocol for recipe, _, _ in task["missing"]}
    }

    workspace = task["workspace"]
    # After a restart some models are finished; all workers look before one finishes the next.
    missing = [model for model in task["missing"] if find(workspace, model[1]) is None]
    if world > 1:
        torch.distributed.barrier()

    def fit(recipe: Recipe, spec: StageSpec, base: Path | None) -> TrainedModel | None:
        if base is not None and world > 1:
            torch.distributed.barrier()  # rank 0 may have to write the backbone first
        of_recipe = vectors if recipe.uses_knowledge else None
        model = new_model(recipe, dataset, of_recipe, device, base)
        figures: dict[str, float] = {"epoch": 1}
        of_protocol = splits[recipe.protocol]
        rows = len(of_protocol.train) * world * recipe.training.epochs
        wire.begin(f"train {recipe.label}", rows)
        return train(
            recipe,
            model,
            of_protocol,
            checkpoints=Checkpoints(checkpoint_of(workspace, spec), task["checkpoint_s"]),
            compiles=task["compiles"],
            on_rows=lambda rows: wire.advance(rows * world, **figures),
            on_epoch=lambda epoch: figures.update(
                {"epoch": epoch.epoch + 1, f"{recipe.chosen_on}_auc": epoch.valid.auc}
            ),
        )

    for recipe, spec, base in missing:
        if rank > 0:
            fit(recipe, spec, base)
            continue
        with build(workspace, spec) as draft:
            trained = fit(recipe, spec, base)
            assert trained is not None, "rank 0 measures"
            draft.facts.update(write(draft.path, trained, splits[recipe.protocol], dataset))
        remote.discard(checkpoint_of(workspace, spec))


def checkpoint_of(workspace: Path, spec: StageSpec) -> Path:
    """Where a training that is under way keeps what it needs to go on."""
    return workspace / STAGE / ".checkpoints" / f"{spec.fingerprint}.safetensors"
