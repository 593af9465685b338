"""Versions of weights: all networks of one go into service together, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from annotation_server import ROOT

from annotate.versions import VersionError, Versions, main


def networks(folder: Path, content: str) -> dict[str, Path]:
    """Two files of weights with this content."""
    folder.mkdir(exist_ok=True)
    for name in ("model", "student"):
        (folder / f"{name}.pt").write_text(content)
    return {name: folder / f"{name}.pt" for name in ("model", "student")}


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """0001 holds "one" and serves, 0002 holds "two"."""
    found = Versions(tmp_path / "bundle")
    found.serve(found.add(networks(tmp_path / "a", "one"), source="as shipped: one"))
    found.add(networks(tmp_path / "b", "two"), labelled=["p1", "p2"], validation=["p3"],
              dice={"candidate": 0.8125, "served": None})  # fmt: skip
    return found


def served(versions: Versions) -> set[str]:
    return {(versions.link / f"{name}.pt").read_text() for name in ("model", "student")}


def test_a_version_serves_with_all_its_networks_once_it_is_put_into_service(versions: Versions) -> None:
    assert versions.names() == ["0001", "0002"]
    assert (versions.served(), served(versions)) == ("0001", {"one"})
    versions.serve("0002")
    assert (versions.served(), served(versions)) == ("0002", {"two"})
    versions.serve("0001")
    assert (versions.served(), served(versions)) == ("0001", {"one"})


def test_a_record_says_what_a_version_is(versions: Versions) -> None:
    record = versions.record("0002")
    digest = hashlib.sha256(b"two").hexdigest()
    assert record["sha256"] == {"model.pt": digest, "student.pt": digest}
    assert versions.learnt() == {"p1", "p2"}
    assert versions.record("0001")["labelled"] == []


def test_a_moved_work_folder_serves(versions: Versions, tmp_path: Path) -> None:
    os.rename(versions.root, tmp_path / "elsewhere")
    assert served(Versions(tmp_path / "elsewhere")) == {"one"}


def test_numbers_are_counted_beyond_four_digits(versions: Versions) -> None:
    os.rename(versions.folder / "0002", versions.folder / "9999")
    assert versions.add({"model": versions.link / "model.pt"}) == "10000"
    assert versions.names() == ["0001", "9999", "10000"]


def test_without_training_there_is_none(tmp_path: Path) -> None:
    empty = Versions(tmp_path)
    assert (empty.names(), empty.served(), empty.learnt()) == ([], None, set())


def test_a_version_that_is_not_there_is_refused_and_nothing_changes(versions: Versions) -> None:
    with pytest.raises(VersionError) as error:
        versions.serve("0003")
    assert str(error.value) == f"there is no version '0003' in {versions.folder}; kept are 0001, 0002"
    with pytest.raises(VersionError):
        versions.serve("../a")
    assert served(versions) == {"one"}


def test_a_folder_in_place_of_the_link_is_left_alone(versions: Versions) -> None:
    versions.link.unlink()
    versions.link.mkdir()
    with pytest.raises(VersionError, match="expected a link"):
        versions.serve("0001")
    assert versions.link.is_dir()


def test_what_could_not_be_copied_leaves_nothing(versions: Versions, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        versions.add({"model": versions.link / "model.pt", "student": tmp_path / "missing.pt"})
    assert sorted(path.name for path in versions.folder.iterdir()) == ["0001", "0002"]


PUT = """
import os, sys
from pathlib import Path
from annotate.versions import Versions

calls = 0
def dying(real, last):
    def call(*arguments, **named):
        global calls
        calls += 1
        if calls == last:
            os.kill(os.getpid(), 9)
        return real(*arguments, **named)
    return call

def put(last):
    for name in ("rename", "replace", "symlink", "fsync", "mkdir"):
        setattr(os, name, dying(getattr(os, name), last))
    versions = Versions(sys.argv[1])
    versions.sweep()
    new = versions.root.parent / "new"
    versions.serve(versions.add({name: new / f"{name}.pt" for name in ("model", "student")}))

for line in sys.stdin:  # a child for each: the imports take longer than all that it does
    child = os.fork()
    if not child:
        put(int(line))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.fault("19", "kill -9 while new weights are put into service")
def test_killed_at_any_step_one_whole_version_serves(versions: Versions, tmp_path: Path) -> None:
    networks(tmp_path / "new", "new")
    outcomes, step = [], 0
    words, pipe = [sys.executable, "-c", PUT, str(versions.root)], subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True, bufsize=1) as putting:
        assert putting.stdin
        assert putting.stdout
        while True:
            step += 1
            putting.stdin.write(f"{step}\n")
            ended = int(putting.stdout.readline())
            [content] = served(versions)
            outcomes.append(content)
            for name in versions.names():  # whatever is kept is whole
                sums = versions.record(name)["sha256"]
                assert all(
                    hashlib.sha256((versions.folder / name / file).read_bytes()).hexdigest() == digest
                    for file, digest in sums.items()
                )
            if ended == 0:
                break
            assert ended == -9
            versions.serve("0001")
        putting.stdin.close()
    assert outcomes[0] == "one"
    assert outcomes[-1] == "new"
    assert step >= 8
    versions.sweep()
    assert not [path for path in versions.root.rglob("*") if path.name.endswith(".tmp")]


def test_the_command_lists_and_restores(versions: Versions, capsys: pytest.CaptureFixture) -> None:
    main([str(versions.root), "--list"])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("* 0001")
    assert first.endswith("as shipped: one")
    assert second.startswith("  0002")
    assert second.endswith("Dice 0.812 (before: -), 1 to judge by  labelled scans: 2")
    main([str(versions.root), "--restore", "0002"])
    assert capsys.readouterr().out == "Version 0002 serves now.\n"
    assert served(versions) == {"two"}


def test_the_command_names_the_folder_it_wants(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="Expected WORK/model/NAME"):
        main([str(tmp_path), "--list"])


def test_a_record_is_read_as_json(versions: Versions) -> None:
    assert json.loads((versions.link / "version.json").read_text())["version"] == "0001"
