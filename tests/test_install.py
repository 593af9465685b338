"""The promises of distribution/install.py: a bundle is replaced as a whole, and nothing of its user is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_server import NAME, Server, installed, list_sums, publish, serving, stem, tree
from packaging.version import Version
from saying import raises, says

from custom.errors import UserError
from distribution import install
from distribution.download import download

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server(dist):
    server = Server(dist)
    with serving(server):
        yield server


def test_the_same_version_again_does_nothing_and_says_so(server, to, caplog):
    caplog.set_level("INFO")
    download(NAME, server.url, to)
    before, server.seen = tree(to), []
    download(NAME, server.url, to)
    assert f"{to / NAME}: version 0.1.0 is there already; nothing was done." in caplog.messages
    assert tree(to) == before
    assert server.zips() == []


@pytest.mark.fault("9", "weights changed after the download")
def test_the_same_version_again_names_what_was_changed_since(dist, to, caplog):
    download(NAME, dist.as_uri(), to)
    with (to / NAME / "models/model.pt").open("ab") as file:
        file.write(b"x")
    download(NAME, dist.as_uri(), to)
    assert "Changed since it was downloaded: models/model.pt." in caplog.messages


def test_the_same_version_again_names_what_is_gone(dist, to, caplog):
    caplog.set_level("INFO")
    download(NAME, dist.as_uri(), to)
    (to / NAME / "models/model.pt").unlink()
    download(NAME, dist.as_uri(), to)
    assert any("Changed since it was downloaded: models/model.pt." in message for message in caplog.messages)


def test_the_same_version_from_another_archive_is_said(dist, to, caplog):
    download(NAME, dist.as_uri(), to)
    publish(dist, "0.1.0", {"more": b"x"})
    download(NAME, dist.as_uri(), to)
    assert any("came from another archive of this version" in message for message in caplog.messages)
    assert not (to / NAME / "more").exists()


def test_a_newer_version_replaces_the_folder_and_keeps_data_and_eval(dist, to, caplog):
    caplog.set_level("INFO")
    publish(dist, "0.1.0", {"gone.txt": b""})
    download(NAME, dist.as_uri(), to)
    for path in ("data/images/a.nii.gz", "eval/bundle/models/model.pt", "scripts/__pycache__/a.pyc"):
        (to / NAME / path).parent.mkdir(parents=True, exist_ok=True)
        (to / NAME / path).write_text("mine")
    publish(dist, "0.2.0")
    download(NAME, dist.as_uri(), to)
    assert installed(to) == "0.2.0"
    assert stem(to) == [NAME]
    assert (to / NAME / "data/images/a.nii.gz").read_text() == "mine"
    assert (to / NAME / "eval/bundle/models/model.pt").read_text() == "mine"
    assert not (to / NAME / "gone.txt").exists()
    assert any("eval/ was kept, and with it the network trained there" in message for message in caplog.messages)


def test_changed_files_are_not_lost(dist, to, caplog):
    caplog.set_level("INFO")
    download(NAME, dist.as_uri(), to)
    (to / NAME / "docs/README.md").write_text("mine")
    (to / NAME / "notes.txt").write_text("mine")
    publish(dist, "0.2.0")
    download(NAME, dist.as_uri(), to)
    old = to / f"{NAME}.old-0.1.0"
    says(caplog.text, str(to / NAME), "you had changed docs/README.md, notes.txt;", f"kept as {old}")
    assert (old / "notes.txt").read_text() == (old / "docs/README.md").read_text() == "mine"
    assert installed(to) == "0.2.0"
    assert not (to / NAME / "notes.txt").exists()


def test_a_bundle_that_was_not_downloaded_is_kept_whole(dist, to, caplog):
    caplog.set_level("INFO")
    download(NAME, dist.as_uri(), to)
    (to / NAME / install.RECORD).unlink()
    before = tree(to / NAME)
    for version in ("0.2.0", "0.3.0"):  # the second one was downloaded: it goes
        publish(dist, version)
        download(NAME, dist.as_uri(), to)
    assert stem(to) == [NAME, f"{NAME}.old-0.1.0"]
    assert tree(to / f"{NAME}.old-0.1.0") == before
    assert any("which files of the old folder are yours is not known" in message for message in caplog.messages)


def test_a_name_that_is_taken_gets_a_number(dist, to):
    for version in ("0.1.0", "0.2.0", "0.1.0", "0.2.0"):
        publish(dist, version)
        download(NAME, dist.as_uri(), to, Version(version))
        (to / NAME / "mine").write_text(version)
    assert stem(to) == [NAME, f"{NAME}.old-0.1.0", f"{NAME}.old-0.1.0-2", f"{NAME}.old-0.2.0"]


def test_an_archive_cannot_bring_its_own_record(dist, to, caplog):
    publish(dist, "0.1.0", {install.RECORD: b'{"files": {}, "sha256": "0"}'})
    download(NAME, dist.as_uri(), to)
    download(NAME, dist.as_uri(), to)
    assert not any("another archive" in message or "Changed" in message for message in caplog.messages)


def test_an_older_version_comes_only_when_asked_for(dist, to):
    publish(dist, "0.10.0")
    download(NAME, dist.as_uri(), to)
    assert installed(to) == "0.10.0"
    (dist / f"{NAME}_v0.10.0.zip").unlink()
    list_sums(dist)
    found = (f"{NAME} 0.10.0 is there", f"{dist.as_uri()} has only 0.1.0", "older")
    with raises(UserError, *found, "Nothing was changed", "--version 0.1.0 takes it"):
        download(NAME, dist.as_uri(), to)
    assert installed(to) == "0.10.0"
    download(NAME, dist.as_uri(), to, Version("0.1.0"))
    assert installed(to) == "0.1.0"


@pytest.mark.parametrize("what", ["link", "file", "folder"])
def test_what_is_no_bundle_is_not_replaced(dist, to, what, tmp_path):
    to.mkdir()
    if what == "link":
        (to / NAME).symlink_to(download(NAME, dist.as_uri(), tmp_path / "elsewhere"))  # a bundle, but not here
        publish(dist, "0.2.0")
    elif what == "file":
        (to / NAME).write_text("mine")
    else:
        (to / NAME).mkdir()
        (to / NAME / "mine").write_text("mine")
    before = tree(to)
    with pytest.raises(UserError, match=r"[Mm]ove it away"):
        download(NAME, dist.as_uri(), to)
    assert tree(to) == before


# a kill


@pytest.mark.fault("11", "killed at each step of a replacement")
@pytest.mark.parametrize("step", range(10))
def test_a_kill_while_replacing_loses_nothing(dist, to, step):
    """The process ends before each change of the folder in turn; the next call makes it whole."""
    download(NAME, dist.as_uri(), to)
    (to / NAME / "data").mkdir()
    (to / NAME / "data/mine").write_text("mine")
    (to / NAME / "eval").mkdir()
    (to / NAME / "eval/mine").write_text("mine")
    publish(dist, "0.2.0")
    assert not _survives(step, lambda: download(NAME, dist.as_uri(), to))
    whole = [p for p in to.iterdir() if p.is_dir() and (p / "models/model.pt").exists()]
    assert whole, "no whole bundle after the kill"
    download(NAME, dist.as_uri(), to)
    assert installed(to) == "0.2.0"
    assert stem(to) == [NAME]
    assert (to / NAME / "data/mine").read_text() == (to / NAME / "eval/mine").read_text() == "mine"


def test_those_are_all_steps(dist, to):
    download(NAME, dist.as_uri(), to)
    for name in ("data", "eval"):
        (to / NAME / name).mkdir()
    publish(dist, "0.2.0")
    assert _survives(10, lambda: download(NAME, dist.as_uri(), to))


def _survives(step: int, action) -> bool:
    """Run ``action`` in a forked child that dies without a word before its ``step``-th change of the folder."""
    child = os.fork()
    if child == 0:
        count = iter(range(1000))

        def dying(call):
            def wrapped(*arguments, **options):
                if next(count) == step:
                    os._exit(9)
                return call(*arguments, **options)

            return wrapped

        install.os.rename = dying(os.rename)
        install.shutil.rmtree = dying(install.shutil.rmtree)
        install.write_text = dying(install.write_text)
        Path.unlink = dying(Path.unlink)
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_the_user_made_after_a_kill_is_kept_with_what_was_there(dist, to):
    download(NAME, dist.as_uri(), to)
    (to / NAME / "eval").mkdir()
    (to / NAME / "eval/first").write_text("")
    publish(dist, "0.2.0")
    assert not _survives(4, lambda: download(NAME, dist.as_uri(), to))  # both folders renamed, `eval` not yet
    (to / NAME / "eval").mkdir()
    (to / NAME / "eval/second").write_text("")
    download(NAME, dist.as_uri(), to)
    assert (to / NAME / "eval/second").exists()
    assert (to / f"{NAME}.old-0.1.0/eval/first").exists()


@pytest.mark.fault("17", "two downloads into one folder")
def test_two_downloads_into_one_folder_wait_for_each_other(dist, to):
    from custom.run.folder import RunFolder

    with RunFolder(to), pytest.raises(UserError, match=f"in use by pid {os.getpid()}"):
        download(NAME, dist.as_uri(), to)
