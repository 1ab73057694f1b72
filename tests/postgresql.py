"""A PostgreSQL server of its own, with Debian's programs."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.free_port import free_port

_DEBIAN = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder of `initdb` and `pg_ctl`; none: there is no PostgreSQL, or it is not wanted
    (LORECAST_TEST_POSTGRESQL is `none`)."""
    if os.environ.get("LORECAST_TEST_POSTGRESQL") == "none":
        return None
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]
    return max(versions, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Runs a server on loopback with its data in `folder`, which it makes; gives its URI.

    PostgreSQL refuses to run as root: then the user `postgres` runs it, who must be able to reach
    `folder`. Without PostgreSQL skips the test, or fails it if LORECAST_REQUIRE_POSTGRESQL is 1.
    """
    found, port, log = programs(), free_port(), folder / "log"
    if found is None:
        reason = "no PostgreSQL: install it (Debian: postgresql)"
        if os.environ.get("LORECAST_REQUIRE_POSTGRESQL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder.mkdir()
    user: list[str] = []
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = ["runuser", "-u", "postgres", "--"]
    data = ["-D", str(folder / "data")]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"

    def call(*words: str) -> None:
        # Not into a pipe: the server would hold its other end.
        subprocess.run([*user, *words], cwd="/", check=True, timeout=300, stdout=subprocess.DEVNULL)

    call(str(found / "initdb"), *data, "-U", "lorecast", "-A", "trust", "-E", "UTF8", "--locale=C")
    control = str(found / "pg_ctl")
    call(control, *data, "-w", "-t", "200", "-l", str(log), "-o", options, "start")
    try:
        yield f"postgresql://lorecast@127.0.0.1:{port}/postgres"
    finally:
        call(control, *data, "-m", "immediate", "stop")
