"""The promises of distribution/download.py and sources.py: where bundles come from, and the hash they must have."""

from __future__ import annotations

import hashlib
import re

import pytest
from bundle_server import NAME, Server, files, installed, publish, serving, sha256, stem, tree
from packaging.version import Version
from saying import raises

from custom.errors import UserError
from distribution import download as cli
from distribution import install, sources
from distribution.download import download, find

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def server(dist):
    server = Server(dist)
    with serving(server):
        yield server


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


@pytest.mark.parametrize("name", ["dist", "a b", "a#b", "a%41b", "ä"])
def test_a_folder_of_this_machine_is_named_by_its_path(tmp_path, monkeypatch, name):
    """The path may be as a shell writes it: ``--from file://$PWD/dist`` too, whatever it contains."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "SHA256SUMS").write_text(f"{'0' * 64}  {NAME}_v1.0.zip\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for source in (name, f"~/{name}", f"{tmp_path}/{name}/", f"file://{tmp_path}/{name}", (tmp_path / name).as_uri()):
        where = sources.folder_url(source)
        assert (where, find(NAME, source).url) == ((tmp_path / name).as_uri(), f"{where}/{NAME}_v1.0.zip"), source


@pytest.mark.parametrize(
    "source", ["no-such-folder", "/no-such-folder", "ftp://host/a", "github:owner/name", "github:owner@v1", "hf:name",
               "http://", "file:a", "http://host/a?b=c", "github:owner/name@v1\nx"]
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
    with pytest.raises(UserError, match="is not the name of a bundle"):
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
    found = (f"{server.url}/{NAME}_v0.1.0.zip", f"sha256 is {sha256(path)}", f"expected {expected}")
    done = ("Nothing was unpacked", "file was removed")
    with raises(UserError, *found, *done, "Try again", "published hash was changed", "ask who published it"):
        download(NAME, server.url, to)
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
    pinned = sha256(dist / f"{NAME}_v0.1.0.zip").upper()
    assert download(NAME, server.url, to, Version("0.1.0"), pinned) == to / NAME
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


@pytest.mark.parametrize("pin", ["abc", "g" * 64])
def test_a_pin_of_another_form_is_refused(pin):
    with pytest.raises(UserError, match="not 64 hexadecimal digits"):
        find(NAME, "file:///nowhere", None, pin)


def test_a_bundle_comes_out_as_it_was_packed(server, dist, to):
    download(NAME, server.url, to)
    found = {name: data for name, data in tree(to / NAME).items() if data is not None and name != install.RECORD}
    expected = files("0.1.0")
    assert found.keys() == expected.keys()
    assert found["configs/metadata.json"] == expected["configs/metadata.json"]
