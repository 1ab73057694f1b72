"""From an experiment to a running endpoint: find the model, start Ray Serve, wait, end cleanly."""

import json
import logging
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lorecast.config import ExperimentConfig, ServingConfig
from lorecast.errors import ServingError
from lorecast.lifecycle.card import BundleCard
from lorecast.lifecycle.registry import champion_of, fetch
from lorecast.lifecycle.scorer import Scorer

APPLICATION = "lorecast"
_OBJECT_STORE_BYTES = 200 << 20
_DRAIN_TIMEOUT_S = 10.0


def run(config: ExperimentConfig, *, model: str | None = None, bundle: Path | None = None) -> None:
    """Serves until SIGINT (Ctrl-C) or SIGTERM.

    `model` is a reference into the registry (default: the experiment's champion), `bundle` a folder
    to serve instead. Raises ServingError, RegistryError or ArtifactError before anything starts.
    """
    if model and bundle:
        raise ServingError("--model and --bundle name two models: give one of them")
    if not _cluster(config):
        check_port(config.serving)
    folder, version = (bundle, None) if bundle else _fetch(config, model)
    opened = Scorer.load(folder).bundle  # a replica's own failure would be hard to read
    version = version or opened.version
    with _ray(config):
        start(opened, version, config.serving)
        try:
            _announce(opened, version, config.serving)
            threading.Event().wait()
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


def start(bundle: BundleCard, model_version: str, serving: ServingConfig) -> None:
    """Starts the endpoint on the Ray this process is connected to; returns once it answers."""
    from ray import serve

    from lorecast.serve.deployment import bind

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    quiet = {"log_level": "ERROR", "enable_access_log": False}
    http = {"host": serving.host, "port": serving.port}
    try:
        serve.start(proxy_location="HeadOnly", http_options=http, logging_config=quiet)
        application = bind(
            bundle.path,
            model_version=model_version,
            max_items=serving.max_items,
            replicas=serving.replicas,
            gpus=serving.gpus,
        )
        serve.run(application, name=APPLICATION, logging_config=quiet)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise ServingError(f"the endpoint did not start: {reason}") from error


def _fetch(config: ExperimentConfig, model: str | None) -> tuple[Path, str]:
    from lorecast.lifecycle.mlflow_registry import open_registry

    workspace = Path(config.compute.workspace).absolute()
    return fetch(open_registry(config), model or champion_of(config), workspace)


def _cluster(config: ExperimentConfig) -> str | None:
    """The address of a running Ray; none: one is started here."""
    return config.compute.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def _ray(config: ExperimentConfig) -> Iterator[None]:
    """Ray as configured. On leaving it ends if it was started here, and stays if it is a cluster.

    Inside, SIGTERM is what Ctrl-C is: a KeyboardInterrupt.
    """
    import ray

    if address := _cluster(config):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            address="local",
            num_cpus=max(8, config.serving.replicas + 4),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
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


def _announce(bundle: BundleCard, version: str, serving: ServingConfig) -> None:
    host = f"[{serving.host}]" if ":" in serving.host else serving.host
    url = f"http://{host}:{serving.port}"
    user = bundle.entities("user")["id"][0].as_py()
    body = shlex.quote(json.dumps({"user_id": user, "k": 5}))
    _say(f"serving {version} at {url}  ({url}/docs describes it; Ctrl-C ends it)")
    _say(f"try: curl -s {url}/v1/rank -H 'content-type: application/json' -d {body}")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
