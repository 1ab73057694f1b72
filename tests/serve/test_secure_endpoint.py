"""The real endpoint with a token: loopback, locked, and quiet about it."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.free_port import free_port
from tests.main_job import COMMAND, environment
from tests.small_bundle import write_small_bundle
from tests.tiny_dataset import write_tiny_dataset

TOKEN = "sesame-open-0123456789abcdef"


@pytest.mark.slow
@pytest.mark.security
def test_a_token_locks_the_endpoint_and_is_in_no_log(tmp_path: Path) -> None:
    bundle = write_small_bundle(tmp_path, write_tiny_dataset(tmp_path))
    port, temp = free_port(), tmp_path / "tmp"
    temp.mkdir()
    # Ray's sockets need a short path.
    ray_folder = Path(f"/tmp/lorecast-{os.getpid()}")
    errors = (temp / "stderr").open("w")
    server = subprocess.Popen(
        [COMMAND, "serve", "--bundle", str(bundle), "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**environment(), "LORECAST_SERVE_TOKEN": TOKEN, "RAY_TMPDIR": str(ray_folder)},
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        said = server.stdout.readline() + server.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said
        assert '-H "authorization: Bearer $LORECAST_SERVE_TOKEN"' in said
        bearer = {"authorization": f"Bearer {TOKEN}"}
        score = {"user_id": "u4", "item_ids": ["i1", "i2"]}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
            for path in ("/", "/v1/model", "/metrics", "/docs", "/openapi.json", "/page.js"):
                assert client.get(path).status_code == 401, path
                assert client.get(path, headers=bearer).status_code == 200, path
            assert client.post("/v1/score", json=score).status_code == 401
            wrong = {"authorization": f"Bearer {TOKEN}x"}
            assert client.post("/v1/score", json=score, headers=wrong).status_code == 401
            named = {**bearer, "x-request-id": "shop-7"}
            answer = client.post("/v1/score", json=score, headers=named)
            assert answer.status_code == 200
            assert answer.headers.get_list("x-request-id") == ["shop-7"]
            odd = {**bearer, "x-request-id": "a" * 65}
            (own,) = client.get("/v1/model", headers=odd).headers.get_list("x-request-id")
            assert own != odd["x-request-id"]
            page = httpx.BasicAuth("anybody", TOKEN)
            assert client.get("/", params={"user": "secret-user"}, auth=page).status_code == 200
            metrics = client.get("/metrics", headers=bearer).text
            assert "lorecast_items_scored_total{" in metrics
        listening = {
            connection.laddr.ip
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        }
        assert listening == {"127.0.0.1"}
    finally:
        server.send_signal(signal.SIGTERM)
        rest, _ = server.communicate(timeout=90)
        errors.close()
    logs = [path for path in ray_folder.rglob("*") if path.is_file()]
    text = {path: path.read_bytes() for path in logs} | {temp: (temp / "stderr").read_bytes()}
    shutil.rmtree(ray_folder)
    assert any(path.suffix == ".out" for path in logs)
    assert not [path for path, content in text.items() if TOKEN.encode() in content]
    assert TOKEN not in said + rest
    lines = [
        json.loads(line)
        for content in text.values()
        for line in content.decode(errors="replace").splitlines()
        if line.startswith('{"time"')
    ]
    scored = [line for line in lines if line["id"] == "shop-7"]
    assert [(line["status"], line["items"]) for line in scored] == [(200, 2)]
    assert own in [line["id"] for line in lines]
    assert not [path for path, content in text.items() if b"secret-user" in content]
