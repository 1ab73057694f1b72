"""An S3 server in this process, in memory."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def object_store(*buckets: str) -> Iterator[dict[str, str]]:
    """Serves S3 with these buckets on loopback; gives the variables by which programs find it."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for bucket in buckets:
        httpx.put(f"{url}/{bucket}").raise_for_status()
    try:
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": url}
    finally:
        server.stop()
