"""Ray that cannot be reached or started is one sentence."""

from typing import Any

import pytest
import ray

from lorecast.config import ComputeConfig
from lorecast.errors import ClusterError
from lorecast.jobs.cluster import connect


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("10.0.0.9:6379", "no Ray cluster answers at 10.0.0.9:6379 (timed out): see to compute."),
        (None, "Ray did not start (timed out): the machine is too busy"),
    ],
)
def test_one_sentence(address: str | None, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("timed out\nat length")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ClusterError) as raised:
        connect(ComputeConfig(address=address))
    assert told in str(raised.value)
    assert "at length" not in str(raised.value)
