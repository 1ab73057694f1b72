"""The Ray Serve deployment: each replica loads the bundle and answers HTTP itself."""

from pathlib import Path

import torch
from fastapi import FastAPI
from ray import serve

from lorecast.lifecycle.scorer import Scorer
from lorecast.serve.app import create_app

_MAX_ONGOING_REQUESTS = 64
"""A replica's, waiting ones included."""


class ScorerReplica:
    """One process that scores, with one thread: replicas are what adds cores."""

    def __init__(self, bundle: Path, model_version: str, max_items: int, device: str) -> None:
        torch.set_num_threads(1)
        self._scorer = Scorer.load(bundle, device)
        self._scorer.warm_up()
        self._model_version = model_version
        self._max_items = max_items

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray Serve calls it after __init__
        return create_app(
            self._scorer, model_version=self._model_version, max_items=self._max_items
        )


def bind(
    bundle: Path, *, model_version: str, max_items: int, replicas: int, gpus: float = 0.0
) -> serve.Application:
    """The application for `serve.run`. `bundle` must be readable where replicas run."""
    deployment = serve.deployment(
        serve.ingress()(ScorerReplica),
        name="scorer",
        num_replicas=replicas,
        ray_actor_options={"num_gpus": gpus},
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        max_constructor_retry_count=1,
    )
    return deployment.bind(bundle.absolute(), model_version, max_items, "cuda" if gpus else "cpu")
