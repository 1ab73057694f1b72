"""SeLLa's experiments: on the embedded world, and on CoLLM's split with the small LLM."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks import small_llm
from benchmarks.ml1m import ROOT, data
from benchmarks.studies.grid import Grid, Row
from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, load_config
from lorecast.config.sella import Method
from lorecast.data.dataset import Dataset
from lorecast.jobs import sella, sella_work
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.jobs.sella_plans import Model, Plans

PAGE = ROOT / "docs" / "studies" / "sella.md"
TITLE = "Study: SeLLa-Rec"
MAIN: tuple[Method, ...] = ("mf", "text", "collm", "sella")
ABLATIONS: tuple[Method, ...] = (
    "no_alignment",
    "no_warm_start",
    "no_warm_token",
    "one_stage",
)
WORLD_SEEDS, COLLM_SEEDS, ABLATION_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2), (0,)
THREADS = 1
BUDGET = (
    "sella.prompt.history_titles=5",
    "sella.tune.rows=4000",
    "sella.tune.batch_size=32",
    "sella.tune.checks=2",
    "sella.guide.learning_rate=0.001",
    "sella.guide.rows=6000",
    "sella.guide.batch_size=32",
    "sella.guide.checks=2",
    "sella.valid_rows=1000",
)
"""What CoLLM's split is trained on and validated by: some two hours of two cores in all. Few
rows in stage 1, as on the world (docs/sella.md). The collaborative model trains on all rows. Of
stage 3's rates 0.001 was best for CoLLM and SeLLa on validation (AUC + UAUC 1.36, with 0.005 1.34),
in a search before newcomers began as the mean; with 9,000 rows SeLLa's first seed gained little on
all validation rows (0.711 / 0.669 against 0.712 / 0.663), and hiding 30 % of the rows' users and
items lost (0.682 / 0.647)."""


def world(methods: Sequence[Method] = MAIN, *overrides: str) -> ExperimentConfig:
    """configs/world-sella.yaml, five seeds."""
    return _experiment("world-sella", methods, WORLD_SEEDS, *overrides)


def collm(methods: Sequence[Method], *overrides: str, llm: Path | None = None) -> ExperimentConfig:
    """configs/collm-sella.yaml, three seeds; `llm`: instead of the small language model."""
    place = f"dataset.path={data() / 'collm-ml-1m'}"
    model = f"sella.model={llm or small_llm.folder()}"
    return _experiment("collm-sella", methods, COLLM_SEEDS, place, model, *BUDGET, *overrides)


def sasrec_grid(rows: tuple[Row, ...], seeds: tuple[int, ...]) -> Grid:
    """Click models on the dataset of `collm`."""
    place = (f"dataset.path={data() / 'collm-ml-1m'}",)
    return Grid(ROOT / "configs" / "collm-sella.yaml", place, rows, seeds)


def trained(config: ExperimentConfig) -> dict[Method, list[Artifact]]:
    """The scores of every method in the order of the seeds; trains what is missing."""
    found = sella.train(Pipeline(config, Console()))
    return {
        method: [of_seed[seed].artifact for seed in config.training.seeds]
        for method, of_seed in found.items()
    }


def model_folder(score: Artifact) -> Path:
    """Of the model that gave the scores."""
    workspace = score.path.parents[1]
    return workspace / str(score.facts["model"])


def dataset_of(config: ExperimentConfig) -> Dataset:
    return Pipeline(config, Console()).dataset


def valid_figures(config: ExperimentConfig, seeds: Sequence[int]) -> list[dict[str, float]]:
    """Validation's figures of the experiment's methods with these seeds; trains what is missing,
    and does not score the test part."""
    assert config.sella is not None
    console = Console()
    plans = Plans(config, Pipeline(config, console).dataset)
    models = [Model(method, seed) for method in config.sella.methods for seed in seeds]
    needed = [plan for model in models for plan in plans.trainings(model)]
    sella_work.train(plans, [plan for plan in needed if plan.stage.kind == "tune"], console)
    read = {model.vectors_seed for model in models if model.switches.aligned}
    sella_work.write_vectors(plans, read, console)
    sella_work.train(plans, needed, console)
    folders = [plans.last(model).spec.folder(plans.workspace) for model in models]
    return [Artifact.open(folder).facts["valid"] for folder in folders]


def grid(section: str, **values: Sequence[float]) -> list[tuple[str, ...]]:
    """Overrides of every combination of a section's values."""
    return [
        tuple(f"sella.{section}.{name}={value}" for name, value in zip(values, chosen, strict=True))
        for chosen in product(*values.values())
    ]


def _experiment(
    name: str, methods: Sequence[Method], seeds: Sequence[int], *overrides: str
) -> ExperimentConfig:
    return load_config(
        ROOT / "configs" / f"{name}.yaml",
        [
            f"compute.workspace={ROOT / 'workspace'}",
            f"compute.threads={THREADS}",
            f"training.seeds=[{','.join(map(str, seeds))}]",
            f"sella.methods=[{','.join(methods)}]",
            *overrides,
        ],
    )
