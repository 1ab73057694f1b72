"""A model that is replaced while it answers."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lorecast.errors import ArtifactError, ServingError
from lorecast.serve.following import Target
from lorecast.serve.swapping import Swap, ready
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset


def _target(number: int) -> Target:
    return Target(folder=Path(f"bundle-{number}"), version=f"films/{number}")


class Loader:
    """Applications that say their version once they may; some cannot be loaded."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.loaded: list[str] = []
        self.may_answer = asyncio.Event()

    def __call__(self, target: Target) -> ASGIApp:
        self.loaded.append(target.version)
        if target.version in self.broken:
            raise IndexError("no such row")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if Request(scope).query_params:
                await self.may_answer.wait()
            await PlainTextResponse(target.version)(scope, receive, send)

        return app


async def _get(swap: Swap, path: str = "/") -> str:
    transport = httpx.ASGITransport(swap)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.get(path)).text


def test_requests_end_on_the_model_they_began_with() -> None:
    async def scenario() -> None:
        loader = Loader()
        swap = Swap(loader, _target(1))
        under_way = asyncio.create_task(_get(swap, "/?wait=1"))
        await asyncio.sleep(0.01)
        await swap.follow(_target(2))
        assert await _get(swap) == "films/2"
        loader.may_answer.set()
        assert await under_way == "films/1"
        assert (swap.version, swap.swaps, loader.loaded) == ("films/2", 1, ["films/1", "films/2"])

    asyncio.run(scenario())


def test_answers_while_the_next_one_is_loaded() -> None:
    async def scenario() -> None:
        import threading

        loader, go_on = Loader(), threading.Event()

        def slow(target: Target) -> ASGIApp:
            if target.version != "films/1":
                assert go_on.wait(10)
            return loader(target)

        swap = Swap(slow, _target(1))
        following = asyncio.create_task(swap.follow(_target(2)))
        await asyncio.sleep(0.01)
        assert await _get(swap) == "films/1"
        go_on.set()
        await following
        assert await _get(swap) == "films/2"

    asyncio.run(scenario())


def test_what_cannot_be_loaded_leaves_the_old_one(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        now_s = 0.0
        loader = Loader()
        loader.broken = {"films/2"}
        swap = Swap(loader, _target(1), lambda: now_s)
        for _ in range(100):
            await swap.follow(_target(2))
            now_s += 1
        assert await _get(swap) == "films/1"
        assert swap.trouble == "films/2 cannot serve: no such row"
        assert 3 <= swap.failures <= 6, "tried again, ever more seldom"
        assert len(caplog.messages) == 1
        await swap.follow(_target(1))
        assert swap.trouble is None, "a rollback ends it"
        await swap.follow(_target(3))
        assert await _get(swap) == "films/3"

    asyncio.run(scenario())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small_bundle(tmp_path, write_tiny_dataset(tmp_path))


def test_a_whole_bundle_is_ready(bundle: Path) -> None:
    assert ready(Target(folder=bundle, version="films/1"), "cpu", 1e-4).bundle.path == bundle


def _spoil_scores(bundle: Path) -> None:
    rows = json.loads((bundle / "check.json").read_text())
    rows["scores"][3] += 0.01
    text = json.dumps(rows)
    (bundle / "check.json").write_text(text)
    card = json.loads((bundle / "bundle.json").read_text())
    card["files"]["check.json"] = len(text)
    (bundle / "bundle.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_spoil_scores, ServingError, r"differ from training's by 1\.0e-02, at most 1e-04"),
        (lambda folder: (folder / "weights.safetensors").unlink(), ArtifactError, "is missing"),
    ],
)
def test_a_bundle_that_fails_its_check_is_refused(
    bundle: Path, spoil: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    spoil(bundle)
    with pytest.raises(error, match=message):
        ready(Target(folder=bundle, version="films/1"), "cpu", 1e-4)
