"""The one place where a test chooses a port for a server that starts later."""

from __future__ import annotations

import random
import socket

# Below what systems give to outgoing connections (Linux from 32768, others from 49152): a server takes seconds to start, and
# a port that the system itself chose may by then be the end of a neighbour's connection.
PORTS = range(20_000, 32_000)


def free_port() -> int:
    """A port of loopback that nobody listens at, and no connection is given by chance."""
    for port in random.SystemRandom().sample(
        PORTS, len(PORTS)
    ):  # tests and workers that seed alike must not choose alike
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"none of the ports {PORTS.start} to {PORTS.stop - 1} is free")
