"""The promises of distribution/download.py and what it rests on: sources, transfer, contents, install."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import resource
import signal
from pathlib import Path
from urllib.request import Request

import pytest
from bundle_server import NAME, Server, files, list_sums, publish, serving, sha256, tree
from packaging.version import Version

from custom.errors import UserError
from distribution import download as cli
from distribution import install, sources, transfer
from distribution.download import download, find


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(transfer, "WAIT_S", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def dist(tmp_path):
    publish(tmp_path / "dist", "0.1.0")
    return tmp_path / "dist"


@pytest.fixture
def server(dist):
    server = Server(dist)
    with serving(server):
        yield server


@pytest.fixture
def to(tmp_path):
    return tmp_path / "to"


def stem(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def installed(to: Path) -> str:
    return (to / NAME / "docs/README.md").read_text().split()[-1]


# where bundles come from


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("http://host:80/a/", "http://host:80/a"),
        ("file:///a/dist", "file:///a/dist"),
        ("github:o-wner/na.me@v0.1.0", "https://github.com/o-wner/na.me/releases/download/v0.1.0"),
        ("hf:owner/name", "https://huggingface.co/owner/name/resolve/main"),
        ("hf:owner/name@0.1.0", "https://huggingface.co/owner/name/resolve/0.1.0"),
    ],
)
def test_each_source_has_one_folder_of_archives(source, folder, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert sources.folder_url(source) == folder


@pytest.mark.parametrize(
    "source", ["dist", "/dist", "ftp://host/a", "github:owner/name", "github:owner@v1", "hf:name", "http://", "file:a",
               "http://host/a?b=c", "github:owner/name@v1\nx"]
)  # fmt: skip
def test_another_source_is_refused_with_the_forms_that_there_are(source):
    with pytest.raises(UserError, match=re.escape("It is one of http(s)://HOST/FOLDER, file:///FOLDER")):
        sources.folder_url(source)


@pytest.mark.parametrize(
    ("published", "newest"),
    [
        (["0.9.0", "0.10.0", "0.2.0"], "0.10.0"),
        (["1.0.0", "1.1.0rc1"], "1.0.0"),
        (["1.0.0rc1", "1.0.0rc2"], "1.0.0rc2"),
    ],
)
def test_versions_compare_as_versions(published, newest):
    sums = {f"{NAME}_v{version}.zip": "0" * 64 for version in published}
    assert sources.choose(sums, "http://x", NAME, None).version == Version(newest)


def test_a_bundle_whose_name_begins_alike_is_another_one():
    sums = {"a_v0.1.0.zip": "1" * 64, "a_v2_net_v0.3.0.zip": "2" * 64, "a_b_v0.4.0.zip": "3" * 64}
    assert sources.choose(sums, "http://x", "a", None).sha256 == "1" * 64


def test_what_is_not_there_is_named_with_what_is(dist, to):
    with pytest.raises(UserError, match=rf"no archive of toy_mean_teachr \(did you mean '{NAME}'\?\). It has {NAME}"):
        download("toy_mean_teachr", dist.as_uri(), to)
    publish(dist, "0.10.0")
    with pytest.raises(UserError, match=rf"{NAME} 0.3 is not published at .*: there is 0.1.0, 0.10.0"):
        download(NAME, dist.as_uri(), to, Version("0.3"))


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", "ä"])
def test_a_name_cannot_lead_elsewhere(name, dist, to):
    with pytest.raises(UserError, match="is no name of a bundle"):
        download(name, dist.as_uri(), to)
    assert not to.exists()


# the hash


@pytest.mark.fault("9", "one byte of an archive flipped")
def test_a_flipped_byte_is_found_before_unpacking(server, dist, to):
    path = dist / f"{NAME}_v0.1.0.zip"
    data = bytearray(path.read_bytes())
    expected = hashlib.sha256(data).hexdigest()
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        download(NAME, server.url, to)
    assert str(error.value) == (
        f"{server.url}/{NAME}_v0.1.0.zip: sha256 is {sha256(path)}, expected {expected}. Nothing was unpacked, and the "
        "file was removed. Try again; if it stays so, the file or its published hash was changed: ask who published it."
    )
    assert stem(to) == []


@pytest.mark.fault("9", "no published hash")
def test_without_a_hash_nothing_is_fetched(server, dist, to):
    (dist / "SHA256SUMS").unlink()
    with pytest.raises(
        UserError, match=r"^The hash is required: there is no .*/SHA256SUMS\. .*Nothing was downloaded\.$"
    ):
        download(NAME, server.url, to)
    assert server.zips() == []
    assert stem(to) == []


@pytest.mark.fault("9", "hash of another archive alone")
def test_an_archive_without_its_own_line_is_not_fetched(server, dist, to):
    (dist / "SHA256SUMS").write_text(f"{'0' * 64}  other_v0.1.0.zip\n")
    with pytest.raises(UserError, match="names no archive of"):
        download(NAME, server.url, to)
    assert server.zips() == []


def test_a_pinned_hash_stands_in_for_the_published_one(server, dist, to):
    (dist / "SHA256SUMS").unlink()
    told = sha256(dist / f"{NAME}_v0.1.0.zip").upper()
    assert download(NAME, server.url, to, Version("0.1.0"), told) == to / NAME
    assert installed(to) == "0.1.0"


@pytest.mark.fault("9", "archive and published hash both replaced on the server")
def test_a_pinned_hash_is_not_overruled_by_the_server(server, dist, to):
    pinned = sha256(dist / f"{NAME}_v0.1.0.zip")
    publish(dist, "0.1.0", {"scripts/__init__.py": b"print('evil')"})
    with pytest.raises(UserError, match=rf"the published sha256 is \w+, --sha256 is {pinned}. Nothing was downloaded."):
        download(NAME, server.url, to, sha256=pinned)
    assert server.zips() == []
    (dist / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=f"expected {pinned}"):
        download(NAME, server.url, to, Version("0.1.0"), pinned)
    assert stem(to) == []


@pytest.mark.parametrize("text", ["abc  file.zip", "<html>not here</html>", f"{'0' * 64} file.zip more"])
def test_sums_of_another_form_are_no_sums(text):
    with pytest.raises(UserError, match=r"x: line 1 is not '<64 hexadecimal digits>  <file>'"):
        sources.parse_sums(text, "x")


def test_two_hashes_of_one_file_are_refused():
    with pytest.raises(UserError, match=r"x: line 2 gives a.zip a second SHA-256"):
        sources.parse_sums(f"{'0' * 64}  a.zip\n{'1' * 64}  a.zip\n", "x")


def test_lines_of_sha256sum_are_understood():
    assert sources.parse_sums(f"{'A' * 64} *a.zip\n\n{'b' * 64}  b.zip\n", "x") == {
        "a.zip": "a" * 64,
        "b.zip": "b" * 64,
    }


# the transfer


@pytest.mark.fault("9", "transfer cut in the middle")
def test_a_broken_transfer_goes_on_where_it_broke_off(server, dist, to):
    server.cuts = [70_000, 50_000]
    size = (dist / f"{NAME}_v0.1.0.zip").stat().st_size
    download(NAME, server.url, to)
    assert server.zips() == [(None, 200, 70_000), ("bytes=70000-", 206, 50_000), ("bytes=120000-", 206, size - 120_000)]
    assert installed(to) == "0.1.0"
    assert stem(to) == [NAME]


@pytest.mark.fault("9", "server without Range, transfer cut in the middle")
def test_a_server_without_ranges_sends_it_from_the_start(server, dist, to):
    server.cuts, server.ranges = [70_000], False
    download(NAME, server.url, to)
    size = (dist / f"{NAME}_v0.1.0.zip").stat().st_size
    assert server.zips() == [(None, 200, 70_000), ("bytes=70000-", 200, size)]
    assert installed(to) == "0.1.0"


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.fault("9", "file changes between the two parts of a transfer")
def test_parts_of_two_files_are_never_joined(server, dist, to, tags):
    new = publish(dist, "0.1.0", {"more": b"x"}).read_bytes()  # the published one, listed
    old = publish(dist / "old", "0.1.0").read_bytes()
    server.cuts, server.tags = [70_000], tags
    answers = [old]
    server.before = lambda path: (
        path.endswith(".zip") and (dist / f"{NAME}_v0.1.0.zip").write_bytes(answers.pop() if answers else new)
    )
    download(NAME, server.url, to)
    assert (to / NAME / "more").read_bytes() == b"x"
    if tags:  # If-Range: the server sends the new one whole
        assert server.zips() == [(None, 200, 70_000), ("bytes=70000-", 200, len(new))]
    else:  # the hash finds it
        assert server.zips()[1:] == [("bytes=70000-", 206, len(new) - 70_000), (None, 200, len(new))]


@pytest.mark.fault("9", "server that joins parts of two files against If-Range")
def test_another_entity_tag_begins_anew(server, dist, to, monkeypatch, caplog):
    caplog.set_level("INFO")
    new = publish(dist, "0.1.0", {"more": b"x"}).read_bytes()
    answers = [publish(dist / "old", "0.1.0").read_bytes()]
    server.cuts = [70_000]
    server.before = lambda path: (
        path.endswith(".zip") and (dist / f"{NAME}_v0.1.0.zip").write_bytes(answers.pop() if answers else new)
    )
    monkeypatch.setattr("bundle_server._Handler._start", lambda self, asked, tag: int(asked[6:-1]) if asked else 0)
    download(NAME, server.url, to)
    assert [status for _, status, _ in server.zips()] == [200, 206, 200]
    assert (to / NAME / "more").exists()
    assert any("the file has changed meanwhile; from the start" in message for message in caplog.messages)


@pytest.mark.fault("9", "server that sends another part than was asked for")
def test_another_part_than_was_asked_for_is_not_joined(server, to, monkeypatch, caplog):
    caplog.set_level("INFO")
    server.cuts = [70_000]
    monkeypatch.setattr("bundle_server._Handler._start", lambda self, asked, tag: 69_990 if asked else 0)
    download(NAME, server.url, to)
    assert [status for _, status, _ in server.zips()] == [200, 206, 200]
    assert not any("joined parts" in message for message in caplog.messages)


@pytest.mark.fault("9", "half downloaded, then a new call")
def test_a_new_call_goes_on_with_what_an_earlier_one_left(server, dist, to):
    server.cuts = [60_000, 0, 0, 0, 0]
    with pytest.raises(UserError) as error:
        download(NAME, server.url, to)
    part, size = to / f"{NAME}_v0.1.0.zip.part", (dist / f"{NAME}_v0.1.0.zip").stat().st_size
    assert str(error.value) == (
        f"{server.url}/{NAME}_v0.1.0.zip: the connection ended after 60000 of {size} bytes; 5 attempts. What came is kept "
        f"in {part}: the same command goes on from there."
    )
    assert stem(to) == [part.name]
    assert part.stat().st_size == 60_000
    download(NAME, server.url, to)
    assert server.zips()[-1] == ("bytes=60000-", 206, size - 60_000)
    assert installed(to) == "0.1.0"
    assert stem(to) == [NAME]


@pytest.mark.parametrize("left", [b"rubbish" * 1000, b"x" * 999_999])
def test_a_part_of_something_else_is_given_up(server, to, left):
    to.mkdir()
    (to / f"{NAME}_v0.1.0.zip.part").write_bytes(left)  # shorter, and longer, than the archive
    download(NAME, server.url, to)
    assert installed(to) == "0.1.0"
    assert stem(to) == [NAME]


def test_a_part_that_is_whole_is_not_fetched_again(server, dist, to):
    to.mkdir()
    (to / f"{NAME}_v0.1.0.zip.part").write_bytes((dist / f"{NAME}_v0.1.0.zip").read_bytes())
    download(NAME, server.url, to)
    assert server.zips() == []
    assert installed(to) == "0.1.0"


def test_a_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(server, to):
    server.statuses = [503, 429]
    download(NAME, server.url, to)
    assert [status for _, status, _ in server.zips()] == [503, 429, 200]
    server.statuses, server.seen = [403], []
    with pytest.raises(UserError, match="the server refuses it: 403 Forbidden"):
        download(NAME, server.url, to.with_name("b"))
    assert len(server.zips()) == 1


def test_a_network_that_goes_away_in_the_middle_is_tried_again(server, to, monkeypatch):
    real, broken = transfer._open, []

    class Gone:
        def __init__(self, answer):
            self.answer, self.headers, self.status = answer, answer.headers, answer.status

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.answer.close()

        def read(self, size):
            broken.append(size)
            raise OSError(errno.EHOSTUNREACH, "No route to host")

    def opening(url, headers):
        answer = real(url, headers)
        return Gone(answer) if url.endswith(".zip") and not broken else answer

    monkeypatch.setattr(transfer, "_open", opening)
    download(NAME, server.url, to)
    assert installed(to) == "0.1.0"
    assert broken


def test_attempts_are_bounded(server, to):
    server.statuses = [503] * 9
    with pytest.raises(UserError, match="the server answers 503 Service Unavailable; 5 attempts"):
        download(NAME, server.url, to)
    assert len(server.zips()) == transfer.ATTEMPTS == 5


def test_nobody_there_is_said_plainly(server, to):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"SHA256SUMS: Connection refused; 5 attempts. Try again later."):
        download(NAME, server.url, to)


@pytest.mark.fault("11", "a file without end")
def test_a_file_larger_than_any_bundle_is_not_kept(server, to, monkeypatch):
    monkeypatch.setattr(transfer, "MAX_BYTES", 100_000)
    with pytest.raises(UserError, match="is larger than 100000 bytes: no bundle is"):
        download(NAME, server.url, to)
    assert stem(to) == []


def test_https_is_never_left():
    follow = transfer._StaysSafe().redirect_request
    with pytest.raises(UserError, match="redirects to http://a/c, which is not followed"):
        follow(Request("https://a/b"), None, 302, "", {}, "http://a/c")
    with pytest.raises(UserError, match="redirects to file:///etc/passwd"):
        follow(Request("http://a/b"), None, 302, "", {}, "file:///etc/passwd")
    assert follow(Request("https://a/b", headers={"Range": "bytes=1-"}), None, 302, "", {}, "https://c/d").has_header(
        "Range"
    )


@pytest.mark.fault("11", "disk full while an archive comes or is unpacked")
@pytest.mark.parametrize("limit", [50_000, 202_000])
def test_a_full_disk_keeps_the_earlier_bundle(dist, to, limit):
    """A limit on the size of a file stands in for the disk: below the archive's 201 kB, and below what it holds."""
    download(NAME, dist.as_uri(), to)
    publish(dist, "0.2.0", {"zeros": bytes(300_000)})
    before = tree(to / NAME)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            download(NAME, dist.as_uri(), to)
        except UserError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as told:
        assert re.match(rb"Cannot (write|unpack) .*File too large", told.read())
    assert tree(to / NAME) == before
    assert not (to / f".{NAME}.new").exists()


# versions


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
    assert (
        f"{to / NAME}: you had changed docs/README.md, notes.txt; the old folder is kept as {old}." in caplog.messages
    )
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
    with pytest.raises(UserError) as error:
        download(NAME, dist.as_uri(), to)
    assert str(error.value) == (
        f"{NAME} 0.10.0 is there already, and {dist.as_uri()} has only 0.1.0, which is older. Nothing was changed; "
        "--version 0.1.0 takes it all the same."
    )
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
    """Before each change of the folder in turn the process ends; the next call makes it whole."""
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


# the command


def test_the_command_downloads_and_an_error_is_one_line(server, to, capsys):
    assert cli.main([NAME, "--from", server.url, "--to", str(to)]) == 0
    assert cli.main(["nothing", "--from", server.url, "--to", str(to)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_where_from_must_be_said(capsys, monkeypatch):
    monkeypatch.delenv(cli.SOURCE, raising=False)
    with pytest.raises(SystemExit):
        cli.main([NAME])
    assert "--from http(s)://HOST/FOLDER" in capsys.readouterr().err


def test_the_environment_may_say_where_from(server, to, monkeypatch):
    monkeypatch.setenv(cli.SOURCE, server.url)
    assert cli.main([NAME, "--to", str(to)]) == 0
    assert installed(to) == "0.1.0"


@pytest.mark.parametrize("told", ["abc", "g" * 64])
def test_a_pin_of_another_form_is_refused(told):
    with pytest.raises(UserError, match="not 64 hexadecimal digits"):
        find(NAME, "file:///nowhere", None, told)


def test_a_bundle_comes_out_as_it_was_packed(server, dist, to):
    download(NAME, server.url, to)
    found = {name: data for name, data in tree(to / NAME).items() if data is not None and name != install.RECORD}
    expected = files("0.1.0")
    assert found.keys() == expected.keys()
    assert found["configs/metadata.json"] == expected["configs/metadata.json"]
