"""The promises of distribution/transfer.py: an archive comes over whole, or goes on where it broke off; no two are joined."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
from urllib.request import Request

import pytest
from bundle_server import NAME, Server, installed, publish, serving, stem, tree
from saying import raises

from custom.errors import UserError
from distribution import transfer
from distribution.download import download

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server(dist):
    server = Server(dist)
    with serving(server):
        yield server


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
    part, size = to / f"{NAME}_v0.1.0.zip.part", (dist / f"{NAME}_v0.1.0.zip").stat().st_size
    found = (f"{server.url}/{NAME}_v0.1.0.zip", f"ended after 60000 of {size} bytes", "5 attempts")
    with raises(UserError, *found, f"kept in {part}", "the same command goes on"):
        download(NAME, server.url, to)
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
    with open(reader, "rb") as said:
        assert re.match(rb"Cannot (write|unpack) .*File too large", said.read())
    assert tree(to / NAME) == before
    assert not (to / f".{NAME}.new").exists()
