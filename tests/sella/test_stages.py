"""All stages in a row on a tiny dataset, the guide's invariants, and the scorer that comes out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorecast.config import SellaConfig
from lorecast.config.sella import Method
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError
from lorecast.sella import saved
from lorecast.sella.methods import switches
from lorecast.sella.recipe import Setting, Stage
from lorecast.sella.rows import PromptRows
from lorecast.sella.scorer import SellaScorer
from lorecast.sella.stages import (
    language_of,
    read_vectors,
    semantic_vectors,
    train,
    write_vectors,
)
from tests.tiny_dataset import write_tiny_dataset

_CPU = torch.device("cpu")


class Chain:
    """The stages of a setting, each made when it is asked for."""

    def __init__(self, folder: Path, dataset: Dataset, setting: Setting) -> None:
        self._folder, self.dataset, self.setting = folder, dataset, setting
        self.facts: dict[str, dict[str, Any]] = {}

    def tune(self) -> Path:
        return self._made("tune", Stage(kind="tune", seed=0, method=switches("text")))

    def vectors(self) -> Path:
        folder = self._folder / "vectors"
        if not folder.exists():
            folder.mkdir()
            language = language_of(self.setting, self.tune(), _CPU)
            titles = self.dataset.items()["title"].to_pylist()
            state_NH = semantic_vectors(language, self.setting.config, titles)
            state_RH = np.concatenate([np.zeros_like(state_NH[:1]), state_NH])
            write_vectors(folder, state_RH, np.arange(len(state_RH)) > 0)
        return folder

    def align(self, *, aligned: bool) -> Path:
        method = switches("sella" if aligned else "mf")
        vectors = self.vectors() if aligned else None
        stage = Stage(kind="align", seed=0, method=method, vectors=vectors)
        return self._made(f"align-{aligned}", stage)

    def guide(self, method: Method) -> Path:
        switched = switches(method)
        stage = Stage(
            kind="guide",
            seed=0,
            method=switched,
            tuned=None if switched.one_stage else self.tune(),
            vectors=self.vectors() if switched.warm_token else None,
            aligned=self.align(aligned=switched.aligned) if switched.id_tokens else None,
        )
        return self._made(method, stage)

    def _made(self, name: str, stage: Stage) -> Path:
        folder = self._folder / name
        if not folder.exists():
            folder.mkdir(parents=True)
            self.facts[name] = train(stage, self.setting, self.dataset, _CPU)(folder)
        return folder


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, tiny_llm: Path) -> Callable[..., Chain]:
    """A chain for some keys of the config; the same for the same keys."""
    chains: dict[str, Chain] = {}

    def make(**keys: Any) -> Chain:
        if repr(keys) not in chains:
            folder = tmp_path_factory.mktemp("chain")
            schedule = {"learning_rate": 1e-2, "batch_size": 64, "checks": 2}
            small = {
                "lora": {"rank": 4},
                "align": {"dim": 8, "hidden": 16, "epochs": 3, "batch_size": 128},
                "tune": schedule,
                "guide": schedule,
            }
            setting = Setting(
                config=SellaConfig.model_validate({**small, **keys}),
                positive_rating=4.0,
                source=str(tiny_llm),
                digest="0123",
            )
            chains[repr(keys)] = Chain(folder, write_tiny_dataset(folder), setting)
        return chains[repr(keys)]

    return make


@pytest.mark.parametrize("method", ["collm", "sella", "no_id_tokens", "one_stage"])
def test_a_method_trains_and_its_folder_scores(chain: Callable[..., Chain], method: Method) -> None:
    made = chain()
    scorer = SellaScorer.load(made.guide(method))
    rows = _test_rows(made)
    score_B = scorer.score_rows(rows)
    assert score_B.std() > 1e-4
    assert set(made.facts[method]["valid"]) == {"auc", "uauc", "log_loss"}


@pytest.mark.parametrize("method", ["text", "sella"])
def test_the_published_form_trains_and_scores(chain: Callable[..., Chain], method: str) -> None:
    made = chain(faithful=True)
    folder = made.tune() if method == "text" else made.guide("sella")
    score_B = SellaScorer.load(folder).score_rows(_test_rows(made))
    assert ((score_B > 1 / (1 + np.e)) & (score_B < np.e / (1 + np.e))).all(), "two softmaxes"
    vectors = read_vectors(made.vectors(), faithful=True)
    np.testing.assert_array_equal(vectors[1:], np.trunc(vectors[1:]))


@pytest.mark.invariant
def test_stage_3_leaves_the_language_model_as_it_is(chain: Callable[..., Chain]) -> None:
    made = chain()
    made.guide("sella")
    expected = language_of(made.setting, made.tune(), _CPU)
    prompts = saved.load(made.tune()).prompts
    expected.answers_only(prompts)
    assert made.facts["sella"]["language_model"] == expected.digest()


@pytest.mark.invariant
@pytest.mark.parametrize("table", ["user", "item", "semantic"])
def test_tokens_are_used(chain: Callable[..., Chain], tmp_path: Path, table: str) -> None:
    """Other entities' tokens give other scores."""
    made = chain()
    folder = made.guide("sella")
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / saved.GUIDE)
    state[f"{table}.weight"] = state[f"{table}.weight"].roll(3, 0)
    save_file(state, tmp_path / saved.GUIDE)
    rows = PromptRows.load(made.dataset, "train", made.setting.config, 4.0).take(slice(0, 60))
    changed = SellaScorer.load(tmp_path).score_rows(rows)
    assert np.abs(changed - SellaScorer.load(folder).score_rows(rows)).max() > 1e-4


def test_cold_users_share_a_token_and_warm_ones_have_their_own(
    chain: Callable[..., Chain],
) -> None:
    made = chain()
    guide = saved.load(made.guide("sella")).guide
    assert guide is not None
    known_R = guide.known_user_R
    assert 0 < known_R.sum() < len(known_R) - 1
    cold = (~known_R).nonzero()[:, 0]
    items = torch.ones(len(cold), dtype=torch.int64)
    with torch.no_grad():
        user_BH = guide(cold, items)[-1]
    assert torch.equal(user_BH, user_BH[:1].expand_as(user_BH))
    warm = known_R.nonzero()[:2, 0]
    with torch.no_grad():
        assert not torch.equal(*guide(warm, items[:2])[-1])


def test_tokens_are_as_long_as_the_model_s_own_at_first(chain: Callable[..., Chain]) -> None:
    made = chain()
    language = language_of(made.setting, None, _CPU)
    made.guide("sella")
    scales = {k: v for k, v in made.facts["sella"].items() if k.startswith("scale_")}
    assert set(scales) == {"scale_user", "scale_item", "scale_warm"}
    guide = saved.load(made.guide("sella")).guide
    assert guide is not None
    tables = {**load_file(made.align(aligned=True) / "tables.safetensors")}
    tables["semantic"] = torch.from_numpy(read_vectors(made.vectors(), faithful=False))
    known = {"user": guide.known_user_R, "item": guide.known_item_R}
    guide.start(tables, known, language.embedding_length())
    rows = guide.known_item_R.nonzero()[:, 0]
    with torch.no_grad():
        tokens = guide(torch.zeros_like(rows), rows)
    for slot in (-2, -3):
        mean = float(tokens[slot].norm(dim=1).mean())
        assert mean == pytest.approx(language.embedding_length(), rel=1e-3)


def test_the_same_seed_gives_the_same_weights(chain: Callable[..., Chain], tmp_path: Path) -> None:
    made = chain()
    again = Chain(tmp_path, made.dataset, made.setting)
    first, second = (load_file(c.tune() / "adapter_model.safetensors") for c in (made, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["one_stage", "sella"])
def test_gradient_checkpointing_changes_memory_alone(
    chain: Callable[..., Chain], method: Method
) -> None:
    folders = [chain(**keys).guide(method) for keys in ({}, {"gradient_checkpointing": True})]
    for file in ("adapter_model.safetensors", saved.GUIDE):
        expected, found = (load_file(folder / file) for folder in folders)
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6, msg=name)


def test_a_scorer_answers_by_ids(chain: Callable[..., Chain]) -> None:
    made = chain()
    scorer = SellaScorer.load(made.guide("sella"))
    items = ["i1", "i2", "i3"]
    scores = scorer.score("u3", items)
    assert scores.shape == (3,)
    np.testing.assert_allclose(scorer.score("u3", items[::-1])[::-1], scores, atol=1e-6)
    history = [("i7", 5.0), ("i8", 1.0), ("i9", None)]
    liked_only = [("i7", None), ("i9", None)]
    np.testing.assert_array_equal(
        scorer.score("u3", items, history), scorer.score("u3", items, liked_only)
    )
    assert not np.allclose(scorer.score("u3", items, history), scores)


@pytest.mark.bad_input
def test_unknown_ids_and_empty_histories_have_a_defined_answer(
    chain: Callable[..., Chain],
) -> None:
    made = chain()
    scorer = SellaScorer.load(made.guide("sella"))
    assert scorer.score("u3", []).shape == (0,)
    strangers = [scorer.score(user, ["i1", "nothing"], []) for user in ("nobody", "another")]
    assert np.isfinite(strangers).all()
    np.testing.assert_array_equal(*strangers)
    np.testing.assert_allclose(scorer.score("nobody", ["i1"]), strangers[0][:1], atol=1e-6)
    unknown = scorer.score("u3", ["x", "y"])
    assert unknown[0] == pytest.approx(unknown[1], abs=1e-7)


@pytest.mark.bad_input
def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no SeLLa model \(no sella.json\)"):
        SellaScorer.load(tmp_path)
    (tmp_path / saved.CARD).write_text('{"format": "lorecast-sella/1"}')
    with pytest.raises(ArtifactError, match="is damaged"):
        SellaScorer.load(tmp_path)


def _test_rows(made: Chain) -> PromptRows:
    return PromptRows.load(made.dataset, "test", made.setting.config, 4.0)
