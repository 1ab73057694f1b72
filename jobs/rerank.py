"""Trains re-rankers, each strategy and seed a Ray task, and compares them on the same test lists.

One artifact a model, strategy and seed; see `lorecast.reranking.training` for its files. The
workspace must be reachable from the workers.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from lorecast.artifacts import Artifact, StageSpec, build, find
from lorecast.config import ExperimentConfig, Strategy
from lorecast.data.dataset import Dataset
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError
from lorecast.jobs.cluster import connect, our_errors
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.relay import Relay, Wire
from lorecast.reranking.recipe import Recipe

STAGE = "rerank"
_THREADS = 1
_METRICS = ("map", "ndcg", "clicks")


def run(config: ExperimentConfig, console: Console) -> list[Artifact]:
    """The stages before, all models of the experiment, and a table of them.

    Raises ConfigError if a strategy, the protocol or the extractor is none of re-ranking's.
    """
    _check(config)
    pipeline = Pipeline(config, console)
    dataset = pipeline.dataset
    uses_knowledge = any(strategy != "base" for strategy in config.training.strategies)
    vectors = VectorsTable.open(pipeline.encode().path) if uses_knowledge else None
    artifacts = run_all(config, dataset, vectors, console)
    report(config, artifacts, console)
    return artifacts


def run_all(
    config: ExperimentConfig, dataset: Dataset, vectors: VectorsTable | None, console: Console
) -> list[Artifact]:
    """One trained re-ranker a strategy and seed; `vectors` may be None if all are `base`.

    Raises ConfigError, TrainingError, LeakageError or EncodingError if one cannot be trained.
    """
    _check(config)
    workspace = config.compute.folder.resolve()
    recipes = [
        Recipe(model=config.model, reranking=config.reranking, strategy=strategy, seed=seed)
        for seed in config.training.seeds
        for strategy in config.training.strategies
    ]
    specs = [_spec(config.name, recipe, dataset, vectors) for recipe in recipes]
    missing = [
        (recipe, spec)
        for recipe, spec in zip(recipes, specs, strict=True)
        if find(workspace, spec) is None
    ]
    if missing:
        if vectors is not None and any(recipe.uses_knowledge for recipe, _ in missing):
            vectors.check(dataset)
        _train_side_by_side(config, dataset, vectors, missing, console)
    made = {spec.fingerprint for _, spec in missing}
    artifacts = [Artifact.open(spec.folder(workspace)) for spec in specs]
    for artifact in artifacts:
        cached = artifact.fingerprint not in made
        seconds = 0.0 if cached else artifact.manifest["seconds"]
        console.stage(STAGE, _summary(config, artifact), seconds=seconds, cached=cached)
    return artifacts


def report(config: ExperimentConfig, artifacts: Sequence[Artifact], console: Console) -> None:
    """A table of test figures, mean ± standard deviation over seeds, and paired differences."""
    from lorecast.evaluation.uncertainty import seed_test

    by_strategy: dict[Strategy, list[Artifact]] = {
        strategy: [a for a in artifacts if a.facts["strategy"] == strategy]
        for strategy in config.training.strategies
    }
    lines, figures = [], []
    for name in _names(config.reranking.cutoffs):
        found = {
            strategy: [float(a.facts["metrics"]["test"][name]) for a in models]
            for strategy, models in by_strategy.items()
        }
        first = float(artifacts[0].facts["metrics"]["first_ranker"][name])
        line = {"test": name.upper().replace("CLICKS", "clicks"), "as given": f"{first:.4f}"}
        line |= {_title(config, strategy): _mean_std(values) for strategy, values in found.items()}
        figure: dict[str, Any] = {"metric": name, "first_ranker": first, "by_seed": found}
        if "base" in found and "all_parameters" in found:
            gain = [a - b for a, b in zip(found["all_parameters"], found["base"], strict=True)]
            tested = seed_test(gain)
            line["difference"] = f"{mean(gain):+.4f}"
            if tested is not None:
                line["difference"] += f" ± {tested.half_width:.4f}"
            figure["difference"] = tested._asdict() if tested else {"mean": gain[0], "seeds": 1}
        lines.append(line)
        figures.append(figure)
    lists = artifacts[0].facts["lists"]
    seeds = ", ".join(map(str, config.training.seeds))
    title = f"{config.reranking.model} on {lists['test']:,} test lists, seeds {seeds}"
    console.table(title, lines)
    console.result("", model=config.reranking.model, lists=lists, figures=figures)


def _check(config: ExperimentConfig) -> None:
    if "extractor_only" in config.training.strategies:
        raise ConfigError(
            "training.strategies has 'extractor_only', and re-ranking has no such strategy: add "
            "training.strategies=[base,all_parameters]"
        )
    if config.model.extractor_from is not None:
        raise ConfigError(
            "model.extractor_from names a trained extractor, and re-ranking trains its own: drop it"
        )
    if config.training.backbone_from is not None:
        raise ConfigError(
            "training.backbone_from names a trained click model, and re-ranking trains its own: "
            "drop it"
        )
    if config.training.protocol == "kar":
        raise ConfigError(
            "training.protocol is 'kar', and re-ranking has no such protocol: add "
            "training.protocol=honest"
        )


def _spec(name: str, recipe: Recipe, dataset: Dataset, vectors: VectorsTable | None) -> StageSpec:
    inputs = {"dataset": dataset.fingerprint}
    if recipe.uses_knowledge:
        assert vectors is not None, "a model with knowledge needs vectors"
        inputs["vectors"] = Artifact.open(vectors.path).fingerprint
    return StageSpec(
        stage=STAGE, name=f"{name}-{recipe.label}", identity=recipe.identity(), inputs=inputs
    )


def _train_side_by_side(
    config: ExperimentConfig,
    dataset: Dataset,
    vectors: VectorsTable | None,
    missing: Sequence[tuple[Recipe, StageSpec]],
    console: Console,
) -> None:
    connect(config.compute)
    import ray

    threads = config.compute.threads or _THREADS
    work = ray.remote(num_cpus=threads)(_work)
    with Relay(console) as mailbox, our_errors():
        epochs = len(missing) * config.reranking.epochs
        Wire(mailbox).begin(f"rerank, {len(missing)} × {config.reranking.model}, epochs", epochs)
        shared = {
            "workspace": config.compute.folder.resolve(),
            "dataset": dataset.path.resolve(),
            "threads": threads,
            "mailbox": mailbox,
        }
        tasks = []
        for recipe, spec in missing:
            store = vectors.path.resolve() if vectors and recipe.uses_knowledge else None
            tasks.append(work.remote(shared | {"vectors": store, "recipe": recipe, "spec": spec}))
        ray.get(tasks)


def _work(task: Mapping[str, Any]) -> None:
    """Trains and writes one model, in a worker."""
    import torch

    from lorecast.reranking.training import train, write

    torch.set_num_threads(task["threads"])
    wire, recipe = Wire(task["mailbox"]), task["recipe"]
    dataset = Dataset.open(task["dataset"])
    vectors = VectorsTable.open(task["vectors"]) if task["vectors"] else None
    with build(task["workspace"], task["spec"]) as draft:
        trained = train(
            recipe,
            dataset,
            vectors,
            on_epoch=lambda epoch: wire.advance(1, **{"valid_map@5": epoch.valid_map}),
        )
        draft.facts.update(write(draft.path, trained))
    wire.advance(recipe.reranking.epochs - len(trained.epochs))


def _summary(config: ExperimentConfig, artifact: Artifact) -> str:
    facts = artifact.facts
    last = f"map@{config.reranking.cutoffs[-1]}"
    valid, test = (facts["metrics"][split][last] for split in ("valid", "test"))
    return (
        f"{config.reranking.model}, {facts['strategy']}, seed {facts['seed']}: {last.upper()} "
        f"valid {valid:.4f}, test {test:.4f}; {facts['epochs']} epochs"
    )


def _names(cutoffs: Sequence[int]) -> Iterator[str]:
    for metric in _METRICS:
        yield from (f"{metric}@{cutoff}" for cutoff in cutoffs)


def _title(config: ExperimentConfig, strategy: Strategy) -> str:
    if strategy == "base":
        return "base"
    return f"with {config.model.extractor.upper()}"


def _mean_std(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{mean(values):.4f} ± {stdev(values):.4f}"
