"""What is built can be fetched: by ``monai.bundle download`` from each of its sources, and from a published page."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from bundle_server import serving, tree, weights

from custom.errors import UserError
from distribution import build, cards, publish, sources
from distribution.download import download

NAME = "phantom_2d_supervised"
VERSION = "0.3.0"
ARCHIVE = f"{NAME}_v{VERSION}.zip"
COMMIT = "1" * 40
CARD = {
    "name": NAME, "version": VERSION, "method": "supervised", "task": "phantom_2d", "overrides": {}, "models": ".",
    "weights": {"model.pt": hashlib.sha256(weights()).hexdigest()}, "recommended": False,
    "training": {"commands": ["train"], "commit": COMMIT, "seed": 0, "date": "2026-11-23", "machine": "one", "minutes": 1},
    "data": {"name": "Phantom: drawn", "source": "here", "licence": "Apache-2.0", "attribution": "nobody", "labelled": 4,
             "unlabelled": 40, "validation": 10, "test": 60, "split": "drawn"},
    "figures": {
        "validation": {"dice": {"mean": 0.6}},
        "test": {"cases": 60, "patients": 60, "missed": 0, "false_alarms": 0, "empty_labels": 0,
                     "unit": "mm", "classes": {}, "others": {}, "interval": "none",
                 "dice": {"mean": 0.7, "low": 0.6, "high": 0.8, "cases": 60},
                 "hd95": {"mean": 16.0, "low": 12.0, "high": 20.0, "cases": 60},
                 "calibration": {"ece": 0.1, "over": "voxels"}},
    },
    "intended_use": "None.", "not_tested_on": "Anything.",
}  # fmt: skip


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / NAME
    folder.mkdir()
    (folder / "model.pt").write_bytes(weights())
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    return cards.card(NAME, folder.parent)


@pytest.fixture(scope="module")
def dist(tmp_path_factory, card):
    """A release of one bundle, without the exported networks: they make no difference to who fetches it."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "export", lambda folder: None)
        build.build([NAME], folder, folder=card.path.parents[1])
    return folder


@pytest.fixture(scope="module")
def content(dist):
    """What the archive holds, by name below the top folder."""
    with zipfile.ZipFile(dist / ARCHIVE) as file:
        return {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def found(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if data is not None}


# monai.bundle download


@pytest.fixture
def web(tmp_path):
    """An ordinary web server: a folder, and its address."""
    root = tmp_path / "web"
    root.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(root), **options)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    with serving(server):
        yield root, f"http://127.0.0.1:{server.server_address[1]}"


def test_monai_downloads_from_an_address(dist, content, web, tmp_path):
    from monai.bundle import download as monai_download

    root, url = web
    (root / ARCHIVE).write_bytes((dist / ARCHIVE).read_bytes())
    monai_download(name=NAME, url=f"{url}/{ARCHIVE}", bundle_dir=str(tmp_path / "to"), progress=False)
    assert found(tmp_path / "to" / NAME) == content


def test_monai_downloads_the_newest_from_a_github_release(dist, content, web, tmp_path, monkeypatch):
    """``--source github --repo owner/name/tag``: MONAI reads ``models/model_info.json`` of that tag's tree, then the asset.

    The two addresses of GitHub are turned to the local server, the paths below them stay as MONAI asks for them.
    """
    from monai.bundle import download as monai_download
    from monai.bundle import scripts as monai_scripts

    root, url = web
    (root / "o/n/v1/models").mkdir(parents=True)
    (root / "o/n/v1/models/model_info.json").write_bytes((dist / "model_info.json").read_bytes())
    (root / "o/n/releases/download/v1").mkdir(parents=True)
    (root / "o/n/releases/download/v1" / ARCHIVE).write_bytes((dist / ARCHIVE).read_bytes())
    get, release = monai_scripts.requests.get, monai_scripts._get_git_release_url
    local = re.compile(r"https://(raw\.githubusercontent|github)\.com")
    monkeypatch.setattr(monai_scripts.requests, "get", lambda at, **more: get(local.sub(url, at), **more))
    monkeypatch.setattr(monai_scripts, "_get_git_release_url", lambda *a, **more: local.sub(url, release(*a, **more)))
    monai_download(name=NAME, source="github", repo="o/n/v1", bundle_dir=str(tmp_path / "to"), progress=False)
    assert found(tmp_path / "to" / NAME) == content


def test_our_own_download_takes_the_same_release(dist, content, web, tmp_path, monkeypatch):
    root, url = web
    (root / "o/n/releases/download/v1").mkdir(parents=True)
    for path in dist.iterdir():
        (root / "o/n/releases/download/v1" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(sources, "GITHUB", url)
    bundle = download(NAME, "github:o/n@v1", tmp_path / "to")
    assert {k: v for k, v in found(bundle).items() if k != ".download.json"} == content


def test_names_and_checksums_of_model_info_are_the_zoos(dist):
    info = json.loads((dist / "model_info.json").read_text(encoding="utf-8"))
    entry = info[f"{NAME}_v{VERSION}"]
    assert entry["checksum"] == hashlib.sha1((dist / ARCHIVE).read_bytes(), usedforsecurity=False).hexdigest()
    assert entry["source"].endswith(f"/{ARCHIVE}")


# the page


@pytest.fixture
def page(card, dist, tmp_path):
    return publish.page(card, dist, tmp_path / "pages")


def test_a_page_is_the_bundle_its_archive_and_the_card(page, dist, content):
    there = found(page)
    assert there.pop(ARCHIVE) == (dist / ARCHIVE).read_bytes()
    assert there.pop("SHA256SUMS") == (dist / "SHA256SUMS").read_bytes()
    assert there.pop("README.md").endswith(content["docs/README.md"])
    assert there == content


def test_the_front_matter_is_what_hugging_face_reads(page):
    from huggingface_hub import ModelCard

    data = ModelCard.load(page / "README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "monai", "image-segmentation")
    assert {"monai", "semi-supervised", "supervised"} <= set(data.tags)
    assert data.datasets == ["phantom-drawn"]
    assert [(r.dataset_name, r.dataset_split, r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("Phantom: drawn", "test", "dice", 0.7),
        ("Phantom: drawn", "test", "hd95", 16.0),
    ]


@pytest.mark.parametrize(
    ("data", "licences"),
    [
        ("CC-BY-SA-4.0", {"license": "cc-by-sa-4.0"}),
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("Own terms 2", {"license": "other", "license_name": "own-terms-2", "license_link": "docs/data_license.txt"}),
    ],
)
def test_weights_are_licensed_as_their_data(card, data, licences):
    changed = dataclasses.replace(card, data={**card.data, "licence": data})
    matter = yaml.safe_load(publish.front_matter(changed).strip().strip("-"))
    assert {key: value for key, value in matter.items() if key.startswith("license")} == licences


def test_a_page_is_replaced_but_nothing_else_is(card, dist, page, tmp_path):
    (page / "stale").write_text("")
    publish.page(card, dist, page.parent)
    assert not (page / "stale").exists()
    other = tmp_path / "other" / NAME
    other.mkdir(parents=True)
    (other / "mine").write_text("mine")
    with pytest.raises(UserError, match="is not a page of a bundle: it would be replaced"):
        publish.page(card, dist, other.parent)
    assert found(other.parent) == {f"{NAME}/mine": b"mine"}


@pytest.mark.fault("9", "built archive that is not the one of SHA256SUMS")
def test_what_was_changed_after_the_build_is_not_published(card, dist, tmp_path):
    changed = tmp_path / "dist"
    changed.mkdir()
    for path in dist.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    with (changed / ARCHIVE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"sha256 is \w{64}, SHA256SUMS has \w{64}. Build again: nothing was written."):
        publish.page(card, changed, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_what_was_not_built_is_said(card, tmp_path):
    with pytest.raises(UserError, match=r"is missing: build it first, python -m distribution\.build"):
        publish.page(card, tmp_path / "dist", tmp_path / "pages")


@pytest.fixture
def command(card, dist, tmp_path, monkeypatch):
    """``command(*more)`` runs ``publish`` with a program ``hf`` on the path that writes down its arguments."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/hf"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/told\nexit 7\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(publish.cards, "card", lambda name, folder: card)
    shared = [NAME, "--to", "hf:o/n", "--dist", str(dist), "--pages", str(tmp_path / "pages")]
    return lambda *more: publish.main([*shared, *more])


def test_a_dry_run_says_the_command_and_uploads_nothing(command, tmp_path, capsys):
    assert command("--dry-run") == 0
    page = tmp_path / "pages" / NAME
    line = f"hf upload o/n {page} . --repo-type model --delete '*' --commit-message '{NAME} {VERSION}'"
    assert line in capsys.readouterr().out
    assert (page / "README.md").exists()
    assert not (tmp_path / "told").exists()


def test_without_it_that_command_is_run_and_its_status_handed_on(command, card, tmp_path):
    assert command() == 7
    words = (tmp_path / "told").read_text(encoding="utf-8").splitlines()
    assert words == publish.upload_command(card, tmp_path / "pages" / NAME, "o/n")[1:]


def test_without_the_program_it_says_how_to_get_it(command, tmp_path, capsys):
    (tmp_path / "bin/hf").unlink()
    assert command() == 1
    assert "there is no program hf here: pip install huggingface_hub" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["o/n", "hf:n", "hf:o/n/x", "hf:o/n --private"])
def test_another_place_is_refused(to, capsys):
    with pytest.raises(SystemExit):
        publish.main([NAME, "--to", to])
    assert "expected hf:OWNER/NAME" in capsys.readouterr().err


def test_the_command_is_one_that_hf_knows(card):
    """``hf`` itself parses it, as far as a folder that is not there."""
    hf = Path(sys.executable).with_name("hf")
    words = [str(hf), *publish.upload_command(card, Path("/nowhere/at/all"), "o/n")[1:]]
    done = subprocess.run(
        words,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert "/nowhere/at/all" in done.stderr + done.stdout
    assert "No such option" not in done.stderr + done.stdout


# a server that answers as Hugging Face does


@pytest.fixture
def hub(page):
    """Serves the page as the repository ``o/n``, with the calls that huggingface_hub makes; its address."""

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            resolve = re.fullmatch(rf"/o/n/resolve/(?:main|{COMMIT})/(.+)", path)
            if resolve and (page / resolve[1]).is_file():
                data = (page / resolve[1]).read_bytes()
                self._answer(data, "application/octet-stream", ETag=f'"{_blob(data)}"')
            elif path == "/api/models/o/n/refs":
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT}
                self._json({"branches": [main], "converts": [], "tags": []})
            elif path == "/api/models/o/n/revision/main":
                siblings = [{"rfilename": name} for name in found(page)]
                self._json({"id": "o/n", "modelId": "o/n", "sha": COMMIT, "tags": [], "siblings": siblings})
            elif path == f"/api/models/o/n/tree/{COMMIT}":
                self._json([
                    {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
                    for name, data in found(page).items()
                ])  # fmt: skip
            else:
                self.send_error(404)

        def _json(self, content):
            self._answer(json.dumps(content).encode(), "application/json")

        def _answer(self, data, kind, **more):
            self.send_response(200)
            for key, value in {
                "Content-Length": str(len(data)),
                "Content-Type": kind,
                "X-Repo-Commit": COMMIT,
                **more,
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


def _blob(data: bytes) -> str:
    """The name that git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def test_monai_downloads_a_published_page_by_its_command(hub, page, tmp_path):
    words = [
        "download",
        "--name",
        NAME,
        "--source",
        "huggingface_hub",
        "--repo",
        "o/n",
        "--bundle_dir",
        str(tmp_path / "to"),
    ]
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-m", "monai.bundle", *words], env={**os.environ, **settings},
                          capture_output=True, encoding="utf-8", errors="replace", check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    there = {name: data for name, data in found(tmp_path / "to" / NAME).items() if not name.startswith(".cache/")}
    assert there == found(page)


def test_our_own_download_takes_a_published_page(hub, content, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    bundle = download(NAME, "hf:o/n", tmp_path / "to")
    assert {k: v for k, v in found(bundle).items() if k != ".download.json"} == content
