"""The release: one zip for each pretrained bundle, and what says which bytes they are.

    python -m distribution.build [NAME ...]

``dist/NAME_vVERSION.zip``, ``dist/model_info.json`` in the zoo's form, ``dist/SHA256SUMS`` for ``sha256sum -c``. Built
twice from one commit, wherever the clone lies: the same bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from custom.errors import show_plainly

from .assemble import assemble
from .cards import PRETRAINED, ROOT, Card, CardError, card, cards
from .export import export
from .packing import digest, folder_contents, write_zip

BASE_URL = "https://github.com/OWNER/REPO/releases/download/pretrained"
_OURS = ("*_v*.zip", "model_info.json", "SHA256SUMS")


def build(
    names: Sequence[str] = (), dist: Path = ROOT / "dist", base_url: str = BASE_URL, folder: Path = PRETRAINED
) -> list[Path]:
    """Build the archives aside and put them in the place of ``dist``, which then holds nothing else.

    Args:
        names: of the bundles; all, if none is named.
        dist: the folder to make; an earlier release there is replaced.
        base_url: where the archives will lie, for ``model_info.json``.
        folder: where the cards lie.

    Returns:
        The archives.

    Raises:
        CardError: an unknown name, a wrong card, other weights than its own; ``dist`` holds what no release made.
            ``dist`` is untouched then.
    """
    chosen = [card(name, folder) for name in names] or cards(folder)
    if not chosen:
        raise CardError(f"there is no pretrained bundle in {folder}. Nothing was built.")
    _refuse_others(dist)
    aside = dist.with_name(f".{dist.name}.{uuid.uuid4().hex}")
    work = aside / "work"
    work.mkdir(parents=True)
    try:
        folders = [assemble(one, work / one.name) for one in chosen]
        print(f"exporting {', '.join(folder.name for folder in folders)}", flush=True)
        export(folders)
        for one, folder in zip(chosen, folders, strict=True):
            with (aside / f"{one.release}.zip").open("wb") as file:
                write_zip(file, folder_contents(folder))
        shutil.rmtree(work)
        _describe(chosen, aside, base_url)
        _replace(dist, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [dist / f"{one.release}.zip" for one in chosen]


def _describe(chosen: Sequence[Card], aside: Path, base_url: str) -> None:
    """``model_info.json``, whose checksums are SHA-1 as in the zoo, and ``SHA256SUMS``."""
    archives = {one.release: aside / f"{one.release}.zip" for one in sorted(chosen, key=lambda one: one.release)}
    info = {
        release: {"checksum": digest(path, "sha1"), "source": f"{base_url.rstrip('/')}/{path.name}"}
        for release, path in archives.items()
    }
    (aside / "model_info.json").write_text(json.dumps(info, indent=4) + "\n", encoding="utf-8")
    lines = [f"{digest(path, 'sha256')}  {path.name}\n" for path in archives.values()]
    (aside / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _refuse_others(dist: Path) -> None:
    ours = {path for pattern in _OURS for path in dist.glob(pattern)}
    others = sorted(path.name for path in dist.iterdir() if path not in ours) if dist.is_dir() else []
    if others:
        raise CardError(f"{dist} holds what no release made ({others[0]}) and would be lost. Nothing was built.")


def _replace(dist: Path, aside: Path) -> None:
    before = aside.with_name(aside.name + ".before")
    if dist.exists():
        dist.rename(before)
    aside.rename(dist)
    shutil.rmtree(before, ignore_errors=True)


def state_of_tree() -> str:
    """The commit, and which files differ from it: a release from these cannot be built again."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", errors="replace")
    if commit.returncode:
        return "no git here: which commit this is cannot be said"
    status = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, encoding="utf-8", errors="replace", check=True
    )
    changed = [line[3:] for line in status.stdout.splitlines()]
    some = ", ".join(changed[:5]) + (" ..." if changed[5:] else "")
    dirty = f", dirty: {len(changed)} files differ from it ({some})" if changed else ""
    return f"commit {commit.stdout.strip()}{dirty}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m distribution.build", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="bundles to build (default: all)")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--base-url", default=BASE_URL, help="where the archives will lie (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(state_of_tree())
    built = build(options.names, options.dist.resolve(), options.base_url)
    print((options.dist / "SHA256SUMS").read_text(encoding="utf-8"), end="")
    print(f"{len(built)} bundles, {sum(path.stat().st_size for path in built) / 1e6:.1f} MB: {options.dist}")
    if options.base_url == BASE_URL:
        print("model_info.json names OWNER/REPO: say where the archives will lie with --base-url")


if __name__ == "__main__":
    show_plainly()
    main()
