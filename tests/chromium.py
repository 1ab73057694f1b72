"""A real Chromium for tests of pages, and a server in this process for it to visit."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import uvicorn
from fastapi import FastAPI

from tests.free_port import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A headless browser: LORECAST_TEST_BROWSER (`none`: none), else the first on the PATH. Skips
    the test where there is none, or fails it if LORECAST_REQUIRE_BROWSER is 1."""
    found = os.environ.get("LORECAST_TEST_BROWSER") or next(
        filter(None, map(shutil.which, _NAMES)), None
    )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found = None
    if found in (None, "none"):
        reason = "no Chromium: install it (Debian: chromium) and the Python package playwright"
        if os.environ.get("LORECAST_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def visited(app: FastAPI) -> Iterator[str]:
    """Serves `app` on loopback; gives its address."""
    config = uvicorn.Config(app, port=free_port(), log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{config.port}"
    server.should_exit = True
    thread.join(30)
