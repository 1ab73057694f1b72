"""`lorecast evaluate` and `lorecast report` on models that Ray trains on the tiny dataset."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lorecast.artifacts import MANIFEST, Artifact
from lorecast.errors import ConfigError
from lorecast.evaluation.metrics import auc
from lorecast.jobs import arms as arms_module
from lorecast.jobs import evaluate, side_by_side
from lorecast.jobs.arms import Arm, train_arms
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from tests.small_bundle import write_vectors
from tests.tiny_dataset import write_tiny_dataset

pytestmark = pytest.mark.usefixtures("ray_cluster")
HEIN = "hein: model.extractor=hein, training.strategies=[all_parameters]"
Words = list[str]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return [
        "name=tiny",
        f"compute.workspace={tmp_path_factory.mktemp('evaluate')}",
        "compute.threads=1",
        "model.embedding_dim=8",
        "training.epochs=1",
        "training.seeds=[0, 1]",
    ]


@pytest.fixture(scope="module", autouse=True)
def _tiny_pipeline(words: Words) -> Iterator[None]:
    """Pipelines train for real, on a dataset and vectors made without tables and texts."""
    workspace = Path(words[1].partition("=")[2])
    dataset = write_tiny_dataset(workspace, num_users=120)
    vectors = write_vectors(workspace, dataset)

    class TinyPipeline(Pipeline):
        @cached_property
        def _prepared(self) -> Artifact:
            return Artifact.open(dataset.path)

        @cached_property
        def _encoded(self) -> Artifact:
            return Artifact.open(vectors.path)

    patch = pytest.MonkeyPatch()
    patch.setattr(arms_module, "Pipeline", TinyPipeline)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def evaluated(words: Words) -> Path:
    return evaluate.run(words, [HEIN], Console(quiet=True))


def test_figures_are_those_of_the_test_scores(evaluated: Path) -> None:
    found = evaluate.read(Artifact.open(evaluated))
    assert [arm.name for arm in found.arms] == ["base", "kser", "hein"]
    assert found.reference == "base"
    for arm in found.arms:
        assert list(arm.measured.figures["auc"].by_seed) == [0, 1]
    manifest = json.loads((evaluated / MANIFEST).read_text())
    for name, fingerprint in manifest["inputs"].items():
        arm_name, _, seed = name.rpartition(" s")
        [folder] = (evaluated.parents[1] / "train").glob(f"*{fingerprint[:8]}")
        scores = pq.read_table(folder / "scores.parquet")
        arm = next(arm for arm in found.arms if arm.name == arm_name)
        by_seed = arm.measured.figures["auc"].by_seed
        assert by_seed[int(seed)] == pytest.approx(auc(scores["label"], scores["score"]), abs=1e-12)
        recorded = Artifact.open(folder).facts["metrics"]["test"]["auc"]
        assert by_seed[int(seed)] == pytest.approx(recorded, abs=1e-12)


def test_slices_know_where_texts_are_missing(evaluated: Path) -> None:
    found = evaluate.read(Artifact.open(evaluated))
    parts = {(part.family, part.name): part for part in found.slices}
    assert parts["users", "cold (not in training)"].rows == found.rows
    some, none = (parts["user knowledge", name] for name in ("some", "none"))
    assert some.rows + none.rows == found.rows
    assert none.rows > 0, "every fifth user has no text"
    # Items have a second text each, so none is unknown.
    assert parts["item knowledge", "none"].rows == 0


def test_files_are_there_and_a_second_run_makes_nothing(
    evaluated: Path, words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "build", lambda *_: pytest.fail("it is cached"))
    again = evaluate.run(words, [HEIN], Console(quiet=True), out=tmp_path / "copy")
    assert again == evaluated
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    pictures = {"reliability.png", "gains.png", "slices.png"}
    assert names == {"evaluation.json", "evaluation.md"} | pictures
    text = (evaluated / "evaluation.md").read_text()
    assert "| AUC |" in text
    assert all(f"({picture})" in text for picture in pictures)
    assert "nan" not in text.lower()


def test_machines_get_lines_of_json(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.run(words, [HEIN], Console(as_json=True))
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    tables = [event["title"] for event in events if event["event"] == "table"]
    assert tables[-3:] == ["against base", "AUC by slice", "UAUC by slice"]
    assert events[-1]["event"] == "result"
    assert [arm["name"] for arm in events[-1]["arms"]] == ["base", "kser", "hein"]


def test_more_draws_are_another_evaluation(evaluated: Path, words: Words) -> None:
    other = evaluate.run(words, [HEIN], Console(quiet=True), resamples=150)
    assert other != evaluated
    assert evaluate.read(Artifact.open(other)).resamples == 150


def test_report_lays_base_hein_and_kser_side_by_side(words: Words, tmp_path: Path) -> None:
    folder = side_by_side.run(words, [], Console(quiet=True), out=tmp_path / "report")
    found = json.loads((folder / "report.json").read_text())["tables"]
    main, cost = (found[key] for key in ("How well the models predict clicks", "At what cost"))
    assert [line["model"] for line in main] == ["base", "kser", "hein"]
    assert main[0]["p"] == "–"
    assert main[1]["AUC − base, 95 % over users"][0] in "+-"
    assert all(int(line["trained"].replace(",", "")) > 0 for line in cost)
    weights = found["ESFNet's mean weight on each factor"]
    assert [line["factor"] for line in weights] == [
        "item · facts · mood",
        "item · facts · theme",
        "user · taste · mood",
    ]
    assert set(weights[0]) == {"factor", "kser"}, "HEIN weighs no chunks"
    text = (folder / "report.md").read_text()
    for picture in ("gains", "reliability", "slices", "gates-0"):
        assert f"({picture}.png)" in text
        assert (tmp_path / "report" / f"{picture}.png").exists()


def test_figures_that_the_test_part_chose_are_marked(words: Words) -> None:
    kar = "published: training.protocol=kar training.strategies=[base] training.seeds=[0]"
    folder = side_by_side.run(words, [kar], Console(quiet=True))
    tables = json.loads((folder / "report.json").read_text())["tables"]
    marked = "published (chosen on the test part)"
    main = tables["How well the models predict clicks"]
    assert [line["model"] for line in main] == ["base", "kser", marked]
    assert marked in tables["AUC by slice"][0]
    evaluation = Path(json.loads((folder / "report.json").read_text())["evaluation"])
    assert f"| {marked} |" in (evaluation / "evaluation.md").read_text()


def test_arms_with_other_test_rows_are_refused_by_name(words: Words, tmp_path: Path) -> None:
    base, kser = train_arms(words, [], Console(quiet=True))
    copy = tmp_path / "fewer"
    shutil.copytree(kser.trained[1].artifact.path, copy)
    scores = pq.read_table(copy / "scores.parquet")
    pq.write_table(scores.slice(1), copy / "scores.parquet")
    fewer = _with_model(kser, 1, copy)
    with pytest.raises(ConfigError, match=r"'base' \(\d+ test rows\) and 'kser' \(\d+\)"):
        evaluate.evaluate([base, fewer], Console(quiet=True))
    flipped = scores.set_column(2, "label", [1 - np.asarray(scores["label"])])
    pq.write_table(flipped.cast(scores.schema), copy / "scores.parquet")
    with pytest.raises(ConfigError, match="different rows"):
        evaluate.scored_rows([base, fewer])


def _with_model(arm: Arm, seed: int, folder: Path) -> Arm:
    other = replace(arm.trained[seed], artifact=Artifact.open(folder))
    return replace(arm, trained=dict(arm.trained) | {seed: other})


def test_the_same_models_are_shown_once(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    found = train_arms(words, ["hein: model.extractor=hein"], Console())
    assert [arm.name for arm in found] == ["base", "kser", "hein"]
    assert "hein base has the same models as base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.extractor=hein", "NAME: override"),
        ("hein", "NAME: override"),
        (": model.extractor=hein", "NAME: override"),
        ("hein: model.extractor", "NAME: override"),
        ("hein: model.extractr=hein", "did you mean model.extractor"),
    ],
)
def test_an_arm_that_cannot_be_read(words: Words, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_arms(words, [text], Console(quiet=True))


def test_names_of_arms_are_unique(words: Words) -> None:
    with pytest.raises(ConfigError, match="two arms"):
        train_arms(words, [HEIN, HEIN], Console(quiet=True))
    with pytest.raises(ConfigError, match="own arm has this name"):
        train_arms(words, [f"kser{HEIN.removeprefix('hein')}"], Console(quiet=True))


@pytest.mark.parametrize(
    "text",
    [
        "a: model.extractor=hein training.seeds=[0, 1]",
        "a:model.extractor=hein,training.seeds=[0, 1]",
    ],
)
def test_overrides_are_parted_by_spaces_or_commas(text: str) -> None:
    assert arms_module._parse(text) == ("a", ("model.extractor=hein", "training.seeds=[0, 1]"))
