"""``python -m distribution.download NAME``: a trained bundle, verified before it is unpacked.

    python -m distribution.download hippocampus_low_confidence --from https://example.org/dist
    python -m distribution.download hippocampus_low_confidence --from github:owner/name@v0.1.0
    python -m distribution.download hippocampus_low_confidence --from hf:owner/name --sha256 9a...

The archive is fetched into a file ``.part``, goes on where it broke off, and is compared with its published SHA-256
before it is opened. It is then judged as a whole (:mod:`.archive`), unpacked aside, its weights read with
``weights_only=True`` (:mod:`.contents`), and renamed at the end (:mod:`.install`). A refused archive leaves nothing.
The same version again does nothing; a newer one replaces the whole folder except ``data`` and ``eval``; an older one
comes only when ``--version`` asks for it.

What the hash proves: that from ``SHA256SUMS`` beside the archive proves that the archive came over whole, and is the one
that its publisher listed. Who can change the one file on the server can change the other too, so it does not prove who
made it. ``--sha256``, taken from a place that you trust, does: then nothing the server says can replace it. A bundle is
code: read it before you run one that is not ours.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
from pathlib import Path

from packaging.version import InvalidVersion, Version

from custom.errors import UserError
from custom.files import typed
from custom.run.folder import RunFolder

from . import archive, contents, sources
from .install import Place
from .sources import Offer, SourceError
from .transfer import fetch, read_text

SOURCE = "BUNDLES_SOURCE"  # environment variable: where bundles come from when --from does not say
FOLDER = "bundles-downloaded"

logger = logging.getLogger(__name__)


def download(name: str, source: str, folder: Path, version: Version | None = None, sha256: str | None = None) -> Path:
    """Have the bundle ``name`` in ``folder/name``.

    Args:
        name: of the bundle.
        source: see :func:`.sources.folder_url`.
        folder: of the bundles; made when it is not there.
        version: this one, older or newer than the one that is there; None: the newest.
        sha256: of the archive, where the caller knows it; a published one must be the same.

    Returns:
        ``folder/name``.

    Raises:
        UserError: no hash, a wrong hash, an archive that is refused, an older version that was not asked for, or any
            other fault of the server, the archive or the disk. An earlier bundle is untouched then.
    """
    if not re.fullmatch(r"\w+", name, re.ASCII):
        raise SourceError(f"{name!r} is not the name of a bundle: letters, digits and '_'.")
    with RunFolder(folder, option="to"):
        place = Place(folder, name)
        place.repair()
        there = place.version()
        offer = find(name, source, version, sha256)
        if there == offer.version:
            _say_it_is_there(place, offer)
        elif there and offer.version < there and version is None:
            raise SourceError(
                f"{name} {there} is there already, and {source} has only {offer.version}, which is older. Nothing was "
                f"changed; --version {offer.version} takes it all the same."
            )
        else:
            _replace(place, offer, folder)
            logger.info("%s: version %s%s.", place.bundle, offer.version, f" instead of {there}" if there else "")
        for litter in folder.glob(f"{name}_v*.zip.part"):  # what is installed now, or no longer wanted
            litter.unlink()
    return place.bundle


def find(name: str, source: str, version: Version | None = None, sha256: str | None = None) -> Offer:
    """The archive to take, with the hash that it must have.

    Raises:
        SourceError: no such bundle or version; no hash; a published hash that is not ``sha256``.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise SourceError(f"--sha256 {sha256}: not 64 hexadecimal digits.")
    where = sources.folder_url(source)
    published = read_text(f"{where}/{sources.SUMS}")
    if published is None:
        if sha256 is None or version is None:
            raise SourceError(
                f"The hash is required: there is no {where}/{sources.SUMS}. Give the archive's SHA-256 from a place that "
                "you trust, and which version it is: --sha256 HEX --version VERSION. Nothing was downloaded."
            )
        file = f"{name}_v{version}.zip"
        return Offer(f"{where}/{file}", file, version, sha256.lower())
    offer = sources.choose(sources.parse_sums(published, f"{where}/{sources.SUMS}"), where, name, version)
    if sha256 is not None and offer.sha256 != sha256.lower():
        raise SourceError(
            f"{offer.file}: the published sha256 is {offer.sha256}, --sha256 is {sha256.lower()}. Nothing was downloaded."
        )
    return offer


def _say_it_is_there(place: Place, offer: Offer) -> None:
    logger.info("%s: version %s is there already; nothing was done.", place.bundle, offer.version)
    known = place.archive_sha256()
    if known and known != offer.sha256:
        logger.warning("It came from another archive of this version (sha256 %s, now %s).", known, offer.sha256)
    changed = place.changed() if known else []
    if changed:
        logger.warning("Changed since it was downloaded: %s.", ", ".join(changed))
    if changed or (known and known != offer.sha256):
        logger.warning("Move %s away and download again to have the published files.", place.bundle)


def _replace(place: Place, offer: Offer, folder: Path) -> None:
    part = folder / f"{offer.file}.part"
    fetch(offer.url, part, offer.sha256)
    try:
        archive.unpack(part, place.bundle.name, place.new)
        contents.check(place.new, offer.version)
        place.install(offer.sha256, offer.url)
    except archive.ArchiveError as error:
        part.unlink()
        raise archive.ArchiveError(f"{offer.file}: {error}") from error
    except OSError as error:
        raise archive.ArchiveError(f"Cannot unpack {offer.file} in {folder}: {error.strerror}.") from error
    finally:
        if not place.journal.exists():
            shutil.rmtree(place.new, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distribution.download", description="Download a trained bundle.")
    parser.add_argument("name", metavar="NAME", help="of the bundle, for example hippocampus_low_confidence")
    parser.add_argument("--version", type=_version, help="this version; the newest otherwise")
    parser.add_argument("--from", dest="source", default=os.environ.get(SOURCE), help=f"{sources.FORMS}; ${SOURCE}")
    parser.add_argument("--to", type=typed, default=Path(FOLDER), help=f"folder of the bundles; {FOLDER}")
    parser.add_argument("--sha256", help="of the archive, from a place that you trust")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.source:
        parser.error(f"where from? --from {sources.FORMS}, or the environment variable {SOURCE}")
    try:
        download(options.name, options.source, options.to, options.version, options.sha256)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise argparse.ArgumentTypeError(f"{text} is not a version such as 0.1.0") from None


if __name__ == "__main__":
    sys.exit(main())
