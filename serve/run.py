"""From an experiment to a running endpoint: find the model, start Ray Serve, wait, end cleanly."""

import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorecast.config import MAIN_ARM, ExperimentConfig, ServingConfig
from lorecast.errors import ClusterError, ServingError
from lorecast.lifecycle.card import BundleCard
from lorecast.lifecycle.registry import champion_of
from lorecast.lifecycle.scorer import Scorer
from lorecast.serve import overload
from lorecast.serve.following import Source, Target, arm_sources, of_arm
from lorecast.serve.guard import token_digest, warning

APPLICATION = "lorecast"
_OBJECT_STORE_BYTES = 200 << 20
_DRAIN_TIMEOUT_S = 10.0
_TELL_S = 2.0
_ENVIRONMENT = {
    "RAY_worker_niceness": "0",  # Ray's 15 lets whatever else runs here delay answers
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # after Ray's 5 a busy machine begins again
    overload.VARIABLE: overload.IMPORT_PATH,
}
"""Of a Ray that is started here, unless the user set them."""


def run(config: ExperimentConfig, *, model: str | None = None, bundle: Path | None = None) -> None:
    """Serves until SIGINT (Ctrl-C) or SIGTERM.

    `model` is a reference into the registry (default: the experiment's champion), `bundle` a folder
    to serve instead. Raises ServingError, RegistryError or ArtifactError before anything starts.
    """
    if model and bundle:
        raise ServingError("--model and --bundle name two models: give one of them")
    token_digest(config.serving)
    if said := warning(config.serving):
        sys.stderr.write(said + "\n")
    if not _cluster(config):
        check_port(config.serving)
    card, sources = _sources(config, model, bundle)
    with _ray(config):
        start(sources, config.serving, tolerance=config.promotion.parity)
        try:
            _announce(card, sources, config.serving)
            _tell(any(source.follow for source in sources.values()))
        except KeyboardInterrupt:
            _say("stopping")
            _drain()


def check_port(serving: ServingConfig) -> None:
    """Raises ServingError if `serving.host` is not ours or `serving.port` is taken."""
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((serving.host, serving.port))
            probe.listen()
        except OSError as error:
            raise ServingError(
                f"cannot listen on {serving.host}:{serving.port} ({error.strerror or error}): end "
                "what holds it, or choose another with --host and --port"
            ) from None


def start(sources: Mapping[str, Source], serving: ServingConfig, *, tolerance: float) -> None:
    """Starts the endpoint on the Ray this process is connected to; returns once it answers.

    `sources` are those of the main model and of all arms.
    """
    from ray import serve

    from lorecast.serve.deployment import bind

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    http = {"host": serving.host, "port": serving.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        application = bind(sources, serving, tolerance=tolerance)
        serve.run(application, name=APPLICATION, logging_config=quiet)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise ServingError(f"the endpoint did not start: {reason}") from error


def _sources(
    config: ExperimentConfig, model: str | None, bundle: Path | None
) -> tuple[BundleCard, dict[str, Source]]:
    """The main model's card, and the sources of all arms. Each is loaded once here, since a
    replica's own failure would be hard to read."""
    from lorecast.lifecycle.mlflow_registry import open_registry

    registry = open_registry(config)
    workspace = config.compute.folder.absolute()
    if bundle is None:
        main = Source.named(config, registry, model or champion_of(config), workspace)
        card = Scorer.load(main.first.folder).bundle
    else:
        card = Scorer.load(bundle.absolute()).bundle
        main = Source(first=Target(folder=card.path, version=card.version))
    arms = arm_sources(config, registry, workspace)
    for name, source in arms.items():
        with of_arm(name):
            Scorer.load(source.first.folder)
    return card, {MAIN_ARM: main, **arms}


def _cluster(config: ExperimentConfig) -> str | None:
    """The address of a running Ray; none: one is started here."""
    return config.compute.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def _ray(config: ExperimentConfig) -> Iterator[None]:
    """Ray as configured. On leaving it ends if it was started here, and stays if it is a cluster.

    Inside, SIGTERM is what Ctrl-C is: a KeyboardInterrupt.
    """
    import ray

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address := _cluster(config):
        config.compute.check_shared(address)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(8, (config.serving.max_replicas or config.serving.replicas) + 4),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **quiet,
            )
    except Exception as error:  # Ray's errors share no base but this
        raise ClusterError.of_ray(error, address) from error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ours, not Ray's
    try:
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _drain() -> None:
    """Ends the endpoint once requests under way are answered.

    Where the signal ended Ray's own processes too (as one to a process group does), Ray would wait
    for itself for a minute: then this process ends at once, and what is left of Ray with it.
    """
    from ray import serve

    thread = threading.Thread(target=serve.delete, args=(APPLICATION,), daemon=True)
    thread.start()
    thread.join(_DRAIN_TIMEOUT_S)
    if thread.is_alive():
        sys.stderr.write("error: Ray does not answer any more: ended without waiting for it\n")
        sys.stderr.flush()
        os._exit(ServingError.exit_code)


def _announce(card: BundleCard, sources: Mapping[str, Source], serving: ServingConfig) -> None:
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    url = f"http://{host}:{serving.port}"
    user = card.entities("user")["id"][0].as_py()
    body = shlex.quote(json.dumps({"user_id": user, "k": 5}))
    version = sources[MAIN_ARM].first.version
    _say(f"serving {version} at {url}  ({url}/docs describes it; Ctrl-C ends it)")
    for name, arm in serving.arms.items():
        if arm.share is not None:
            part = f"answers {arm.share:.4g} of the users"
        else:
            part = f"shadows {arm.shadow:.4g} of the requests"
        _say(f"{name}: {sources[name].first.version} {part}")
    token = ""
    if token_digest(serving) is not None:
        token = f' -H "authorization: Bearer ${serving.token_env}"'
    _say(f"try: curl -s {url}/v1/rank{token} -H 'content-type: application/json' -d {body}")


def _tell(follows: bool) -> None:
    """Prints what the watcher says, if there is one, for ever."""
    if not follows:
        threading.Event().wait()
    from ray import serve
    from ray.exceptions import RayError

    watcher, told = serve.get_deployment_handle("watcher", APPLICATION), 0
    while True:
        time.sleep(_TELL_S)
        try:
            told, lines = watcher.said.remote(told).result(timeout_s=_TELL_S)
        except (RayError, TimeoutError):
            continue
        for line in lines:
            _say(line)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
