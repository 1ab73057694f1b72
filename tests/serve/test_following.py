"""Which bundle should serve, as a registry's alias moves."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lorecast.config import load_config
from lorecast.errors import RegistryError
from lorecast.lifecycle.history import enrol
from lorecast.lifecycle.registry import CHAMPION, InMemoryRegistry, ModelVersion, RunRecord
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.following import Backoff, Follow, Follower, Target, arm_sources
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_ALIAS = "models:/films@champion"


@dataclass
class Clock:
    """Time as the test wants it."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Flaky(InMemoryRegistry):
    """A registry that can be down, and counts questions."""

    down: bool = False
    asked: int = field(default=0)

    def resolve(self, model: str, selector: str | int) -> ModelVersion:
        self.asked += 1
        if self.down:
            raise RegistryError("the registry does not answer")
        return super().resolve(model, selector)


@pytest.fixture
def registry(tmp_path: Path) -> Flaky:
    """Two versions of `films`; the first is the champion."""
    registry = Flaky()
    record = RunRecord(name="run", params={}, metrics={}, curves=[], tags={}, plots=[])
    for seed in (0, 1):
        workspace = tmp_path / f"seed-{seed}"
        source = write_small_bundle(workspace, write_tiny_dataset(workspace), seed=seed)
        enrol(registry, "films", source, record, f"print-{seed}")
    return registry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def follower(registry: Flaky, tmp_path: Path, clock: Clock) -> Follower:
    follow = Follow(registry=registry, reference=_ALIAS, workspace=tmp_path, period_s=5.0)
    return Follower(follow, Target.named(registry, _ALIAS, tmp_path), clock)


def _promote(registry: Flaky, number: int) -> None:
    registry.set_alias(InMemoryRegistry.resolve(registry, "films", number), CHAMPION)


def test_fetches_a_version_once(registry: Flaky, tmp_path: Path) -> None:
    first = Target.named(registry, _ALIAS, tmp_path)
    assert first.version == "films/1"
    assert Scorer.load(first.folder).bundle.strategy == "all_parameters"
    shutil.rmtree(tmp_path / "seed-0")
    assert Target.named(registry, "models:/films/1", tmp_path) == first


def test_takes_up_what_the_alias_names(registry: Flaky, follower: Follower, clock: Clock) -> None:
    follower.look()
    assert follower.wanted.version == "films/1"
    _promote(registry, 2)
    clock.now_s += 5
    follower.look()
    assert follower.wanted.version == "films/2"
    assert Scorer.load(follower.wanted.folder)
    _promote(registry, 1)
    clock.now_s += 5
    follower.look()
    assert follower.wanted.version == "films/1"


def test_asks_once_a_period(registry: Flaky, follower: Follower, clock: Clock) -> None:
    registry.asked = 0
    for _ in range(20):
        follower.look()
        clock.now_s += 1
    assert registry.asked == 4


def test_goes_on_without_the_registry(
    registry: Flaky, follower: Follower, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    registry.down, registry.asked = True, 0
    for _ in range(300):
        follower.look()
        clock.now_s += 1
    assert follower.wanted.version == "films/1"
    assert follower.trouble == "the registry does not answer"
    assert registry.asked == follower.failures
    assert 4 <= follower.failures <= 10, "waits grow, and stay within a minute"
    assert len(caplog.messages) == 1, "one line, however often it fails"
    registry.down = False
    _promote(registry, 2)
    clock.now_s += 60
    follower.look()
    assert (follower.wanted.version, follower.trouble) == ("films/2", None)


def test_a_damaged_download_is_not_wanted_and_fetched_anew(
    registry: Flaky, follower: Follower, clock: Clock, tmp_path: Path
) -> None:
    weights = tmp_path / "seed-1" / "bundle" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    _promote(registry, 2)
    clock.now_s += 5
    follower.look()
    assert follower.wanted.version == "films/1"
    assert "weights.safetensors" in (follower.trouble or "")
    weights.write_bytes(whole)
    clock.now_s += 60
    follower.look()
    assert (follower.wanted.version, follower.trouble) == ("films/2", None)


@pytest.mark.parametrize(
    ("reference", "follow_s", "follows"),
    [(_ALIAS, 5, True), (_ALIAS, 0, False), ("models:/films/1", 5, False)],
)
def test_numbers_are_not_followed(
    registry: Flaky, tmp_path: Path, reference: str, follow_s: float, follows: bool
) -> None:
    config = load_config(None, [f"serving.follow_s={follow_s}"])
    assert (Follow.of(config, registry, reference, tmp_path) is not None) is follows


def test_arms_come_from_the_registry_and_errors_name_theirs(
    registry: Flaky, tmp_path: Path
) -> None:
    words = [
        "serving.arms.challenger={model: 'models:/films@champion', share: 0.1}",
        "serving.arms.second={model: models:/films/2, shadow: 0.5}",
    ]
    arms = arm_sources(load_config(None, words), registry, tmp_path)
    assert {arm: source.first.version for arm, source in arms.items()} == {
        "challenger": "films/1",
        "second": "films/2",
    }
    assert [source.follow is not None for source in arms.values()] == [True, False]
    for reference, sentence in [
        (
            "models:/films@rival",
            "serving.arms.second: model 'films' has no alias 'rival'; it has: ",
        ),
        ("films@champion", "serving.arms.second: 'films@champion' names no model version: write"),
    ]:
        wrong = load_config(None, [*words, f"serving.arms.second.model={reference}"])
        with pytest.raises(RegistryError, match=sentence):
            arm_sources(wrong, registry, tmp_path)


def test_waits_double_up_to_a_minute(clock: Clock) -> None:
    backoff = Backoff(5.0, clock)
    waits = []
    for _ in range(6):
        backoff.failed()
        waits.append(_wait(backoff, clock))
    backoff.succeeded()
    assert [*waits, _wait(backoff, clock)] == [10, 20, 40, 60, 60, 60, 5]


def _wait(backoff: Backoff, clock: Callable[[], float]) -> float:
    assert isinstance(clock, Clock)
    started_s = clock()
    while not backoff.over:
        clock.now_s += 1
    return clock() - started_s
