"""What is shipped for clusters fits: KubeRay's own schema, Ray Serve's, the pinned Ray."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RAY = re.search(r"^ray==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
MANIFESTS = {
    manifest["kind"]: manifest
    for file in sorted((DEPLOY / "kuberay").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
}
_CLUSTER_KEYS = {
    "RayCluster": "spec",
    "RayJob": "rayClusterSpec",
    "RayService": "rayClusterConfig",
}


def _strict(schema: Any) -> Any:
    """Unknown keys are errors, as the Kubernetes API server reports them."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    if isinstance(strict.get("properties"), dict) and "additionalProperties" not in strict:
        strict["additionalProperties"] = False
    return strict


SCHEMAS = _strict(json.loads(Path(__file__).with_name("kuberay_schema.json").read_text()))


def _cluster(kind: str) -> dict[str, Any]:
    spec = MANIFESTS[kind]["spec"]
    found: dict[str, Any] = spec if kind == "RayCluster" else spec[_CLUSTER_KEYS[kind]]
    return found


def _errors(kind: str, spec: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft7Validator({**SCHEMAS, "$ref": f"#/{kind}"})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(spec)]


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_manifest_fits_kuberays_schema(kind: str) -> None:
    assert MANIFESTS[kind]["apiVersion"] == "ray.io/v1"
    assert _errors(kind, MANIFESTS[kind]["spec"]) == []


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_the_schema_check_can_fail(kind: str) -> None:
    unknown = json.loads(json.dumps(MANIFESTS[kind]["spec"])) | {"rayVersoin": "2.60.0"}
    (error,) = _errors(kind, unknown)
    assert "rayVersoin" in error
    spec = json.loads(json.dumps(MANIFESTS[kind]["spec"]))
    cluster = spec if kind == "RayCluster" else spec[_CLUSTER_KEYS[kind]]
    cluster["authOptions"]["mode"] = "tokens"
    cluster["workerGroupSpecs"][0]["maxReplicas"] = "four"
    assert len(_errors(kind, spec)) == 2


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob", "RayService"])
def test_clusters_ask_for_a_token_and_share_the_workspace(kind: str) -> None:
    cluster = _cluster(kind)
    assert RAY is not None
    assert cluster["rayVersion"] == RAY[1]
    assert cluster["authOptions"] == {"mode": "token"}
    claim = MANIFESTS["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        pod = group["template"]["spec"]
        claims = [volume.get("persistentVolumeClaim") for volume in pod["volumes"]]
        assert {"claimName": claim["metadata"]["name"]} in claims
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert "MLFLOW_TRACKING_URI" in {variable["name"] for variable in container["env"]}


def test_service_is_one_that_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    from lorecast.serve.application import Arguments

    deployed = ServeDeploySchema(**yaml.safe_load(MANIFESTS["RayService"]["spec"]["serveConfigV2"]))
    (application,) = deployed.applications
    assert application.import_path == "lorecast.serve.application:build"
    assert Arguments(**application.args).experiment[0].endswith(".yaml")


def test_image_is_of_the_pinned_ray_and_copies_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert RAY is not None
    assert f"FROM rayproject/ray:{RAY[1]}-py311-${{KIND}}" in lines
    copied = [words.split()[2:-1] for words in lines if words.startswith("COPY")]
    sources = [source for group in copied for source in group]
    assert {"platform", "jobs", "serve", "pyproject.toml", "constraints.txt"} <= set(sources)
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for source in sources:
        assert (REPOSITORY / source).exists()
        assert f"!{source}" in let_in
