"""Where the limits of a container or of a batch job are written (Linux control groups, version 1 and 2)."""

from __future__ import annotations

import re
from pathlib import Path

MINE = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def folders(controller: str) -> list[Path]:
    """The folders of this process's group and of all above it, any of which may be limited: Slurm and systemd limit one
    far below the root.

    Within a container the path may be the host's and not exist there: then the root, which is always among them, is the
    container's own group. Folders that do not exist are listed too.

    Args:
        controller: such as ``memory`` or ``cpu``.
    """
    found: list[Path] = [ROOT, ROOT / controller]
    try:
        lines = MINE.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        match = re.fullmatch(r"\d+:([^:]*):/(.*)", line)
        if match and (match[1] == "" or controller in match[1].split(",")):
            # version 2 has one tree, version 1 one for each set of controllers
            top = ROOT / match[1]
            path = Path(match[2])
            found += [top, *(top / part for part in [path, *path.parents] if part != Path())]
    return list(dict.fromkeys(found))
