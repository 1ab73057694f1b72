"""A TCP port that nothing listens on."""

import socket


def free_port() -> int:
    """A free port of loopback, as of now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
