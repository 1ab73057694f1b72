"""Grafana's dashboard, before an endpoint with everything that has figures."""

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from lorecast.config import MAIN_ARM
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app, max_bytes
from lorecast.serve.arms import Arms
from lorecast.serve.following import Target
from lorecast.serve.front import front
from lorecast.serve.shadows import Rival, Shadow, Shadows
from lorecast.serve.swapping import Swap
from tests.conftest import REPOSITORY
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset


def _known(workspace: Path) -> dict[str, set[str]]:
    """Labels by the name of a figure."""
    scorer = Scorer.load(write_small_bundle(workspace, write_tiny_dataset(workspace)))
    metrics = CollectorRegistry()
    rival = Rival(version="films/4", scorer=scorer)
    swap = Swap(lambda _: rival, Target(folder=workspace, version=rival.version))
    shadows = Shadows(
        {"shadow": Shadow(share=1.0, swap=swap)}, salt="", replica="r1", metrics=metrics
    )
    app = create_app(scorer, model_version="films/3", max_items=100, arm=MAIN_ARM, shadows=shadows)
    arms = Arms(
        {MAIN_ARM: app}, {}, salt="", max_bytes=max_bytes(100), replica="r1", metrics=metrics
    )
    client = TestClient(
        front(arms, token_digest=None, replica="r1", access_log=False, metrics=metrics)
    )
    client.post("/v1/score", json={"user_id": "u4", "item_ids": ["i1", "i2", "i3"]})
    shadows.drain()
    return {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_the_dashboard_asks_for_what_there_is(tmp_path: Path) -> None:
    text = (REPOSITORY / "deploy" / "grafana.json").read_text(encoding="utf-8")
    dashboard = json.loads(text)
    known = _known(tmp_path)
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in dashboard["panels"]})
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked = re.findall(r"(lorecast_\w+)\{([^}]*)\}", target["expr"])
            assert asked, target["expr"]
            for name, selector in asked:
                assert set(re.findall(r"(\w+)[=!]=?~?\"", selector)) <= known[name], target["expr"]
            for names in re.findall(r"by \(([^)]*)\)", target["expr"]):
                assert set(names.split(", ")) <= known[asked[0][0]]
