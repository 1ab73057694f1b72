"""Random requests, valid and not, drawn from the OpenAPI document: never a 5xx."""

from pathlib import Path

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import BaseSchema, GenerationMode

from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

_VALID, _INVALID = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> BaseSchema:
    workspace: Path = tmp_path_factory.mktemp("workspace")
    scorer = Scorer.load(write_small_bundle(workspace, write_tiny_dataset(workspace)))
    app = create_app(scorer, model_version="films/3", max_items=100)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        ("POST", "/v1/score", _VALID),
        ("POST", "/v1/score", _INVALID),
        ("POST", "/v1/rank", _VALID),
        ("POST", "/v1/rank", _INVALID),
        ("GET", "/v1/model", _VALID),
        ("GET", "/healthz", _VALID),
    ],
)
def test_requests_are_answered_as_described(
    api: BaseSchema, method: str, path: str, mode: GenerationMode
) -> None:
    strategy = api[path][method].as_strategy(generation_mode=mode)

    @given(data=st.data())
    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    def check(data: st.DataObject) -> None:
        data.draw(strategy).call_and_validate()

    check()
