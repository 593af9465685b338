"""The promises of custom/cohort/record.py: an unchanged file is read once, a changed one again, and nothing is lost."""

from __future__ import annotations

import ast
import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cohort_files import write_list
from conftest import ROOT
from scan_files import VOXELS, picture, write_itk, write_nifti, write_series
from waiting import until

from custom import code
from custom.cohort import record as record_module
from custom.cohort.__main__ import main
from custom.cohort.check import Check
from custom.cohort.facts import Facts, ScanFault, read
from custom.cohort.formats import held_bytes
from custom.cohort.record import Record, reader


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in order."""
    names: list[str] = []

    def noting(path: str, **more: bool) -> Facts:
        names.append(Path(path).name)
        return read(path, **more)

    monkeypatch.setattr(record_module, "read", noting)
    return names


def volumes(folder: Path, count: int = 3) -> list[str]:
    return [str(write_nifti(folder / f"{k}.nii.gz", VOXELS + k)) for k in range(count)]


def test_an_unchanged_file_is_read_once(tmp_path, seen):
    files = volumes(tmp_path)
    first = Record(tmp_path / "list.checked.json").facts(files)
    assert sorted(seen) == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    again = Record(tmp_path / "list.checked.json")
    assert again.facts(files) == first
    assert len(seen) == 3
    assert again.known(files[1]) == first[files[1]]
    assert again.known(str(tmp_path / "gone.nii")) is None
    more = [*files, str(write_nifti(tmp_path / "3.nii.gz", VOXELS))]
    Record(tmp_path / "list.checked.json").facts(more)
    assert seen[3:] == ["3.nii.gz"]


def test_what_is_recorded_is_what_was_read(tmp_path):
    voxels = VOXELS.astype(np.float32)
    voxels[0] = math.nan
    files = [
        str(write_nifti(tmp_path / "a.nii.gz", voxels, np.diag([1 / 3, 1, 90, 1]))),
        str(picture(tmp_path / "a.png")),
    ]
    first = Record(tmp_path / "record.json").facts(files)
    assert Record(tmp_path / "record.json").facts(files) == first
    nothing = [str(write_nifti(tmp_path / "b.nii.gz", voxels * math.nan))]
    before = Record(tmp_path / "record.json").facts(nothing)
    assert str(Record(tmp_path / "record.json").facts(nothing)) == str(before)  # NaN is not equal to itself


def test_values_are_counted_in_labels_alone_and_an_image_that_becomes_a_label_is_read_again(tmp_path, seen):
    (image,), (label,) = (
        volumes(tmp_path, 1),
        [str(write_nifti(tmp_path / "label.nii.gz", (VOXELS > 3).astype(np.uint8)))],
    )
    found = Record(tmp_path / "record.json").facts([image, label], labels=[label])
    assert (found[image].values, found[label].values) == (None, ((0.0, 4), (1.0, 56)))
    again = Record(tmp_path / "record.json")
    assert again.known(image, label=True) is None
    assert again.facts([image, label]) == found
    assert len(again.facts([image, label], labels=[image, label])[image].values) == 60
    assert sorted(seen) == ["0.nii.gz", "0.nii.gz", "label.nii.gz"]
    assert Record(tmp_path / "record.json").facts([image], labels=[image])[image].values
    assert len(seen) == 3


def test_as_many_files_are_read_at_once_as_fit_in_memory(tmp_path, monkeypatch):
    files, running, most = volumes(tmp_path, 6), [], []
    at_once = held_bytes(Path(files[0]))
    assert at_once == 2 * VOXELS.nbytes + os.path.getsize(files[0])

    def noting(path: str, **more: bool) -> Facts:
        running.append(path)
        most.append(len(running))
        until(lambda: max(most) >= expected)
        running.remove(path)
        return read(path, **more)

    monkeypatch.setattr(record_module, "read", noting)
    for free, expected in ((2.5 * at_once, 2), (0.5 * at_once, 1), (1e12, 4)):
        monkeypatch.setattr(record_module, "free_memory", lambda free=free: free)
        most.clear()
        Record().facts(files, workers=4)
        assert max(most) == expected


def test_order_and_keys_are_those_of_the_paths(tmp_path, monkeypatch):
    files = volumes(tmp_path)
    record = Record()
    record.facts([files[1]])
    assert list(record.facts([files[2], files[1], files[0], files[2]])) == [files[2], files[1], files[0]]
    monkeypatch.chdir(tmp_path)
    assert list(record.facts(["0.nii.gz"])) == ["0.nii.gz"]
    assert record.known("0.nii.gz") == record.known(files[0]) is not None


def test_a_file_overwritten_with_its_time_put_back_is_read_again(tmp_path, seen):
    (file,) = volumes(tmp_path, 1)
    old = Record(tmp_path / "record.json").facts([file])[file]
    before, size = os.stat(file), Path(file).stat().st_size
    raw = bytearray(Path(file).read_bytes())
    raw[4] ^= 1  # the time in the gzip header: the same size, another digest
    Path(file).write_bytes(raw)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (os.stat(file).st_mtime_ns, os.stat(file).st_size) == (before.st_mtime_ns, size)
    record = Record(tmp_path / "record.json")
    assert record.known(file) is None
    assert record.facts([file])[file].sha256 != old.sha256
    assert len(seen) == 2


def test_a_changed_slice_changes_its_series(tmp_path):
    folder, record = str(write_series(tmp_path / "p01", VOXELS)), Record()
    record.facts([folder])
    assert record.known(folder)
    file = next((tmp_path / "p01").iterdir())
    file.write_bytes(file.read_bytes())
    assert record.known(folder) is None


def test_changed_voxels_beside_a_header_change_the_scan(tmp_path):
    file, record = str(write_itk(tmp_path / "a.mhd", VOXELS)), Record()
    record.facts([file])
    assert record.known(file)
    (tmp_path / "a.raw").write_bytes((tmp_path / "a.raw").read_bytes())
    assert record.known(file) is None


def test_a_fault_is_not_recorded(tmp_path, seen):
    files = volumes(tmp_path)
    Path(files[1]).write_bytes(Path(files[1]).read_bytes()[:-4])
    for _ in range(2):
        found = Record(tmp_path / "record.json").facts(files)
        assert str(found[files[1]]) == "1.nii.gz is truncated."
        assert isinstance(found[files[0]], Facts)
    assert seen.count("0.nii.gz") == 1
    assert seen.count("1.nii.gz") == 2


def test_a_bug_in_a_reader_is_a_fault_of_that_file_alone(tmp_path, monkeypatch):
    files = volumes(tmp_path)

    def broken(path: str, **more: bool) -> Facts:
        return read(path, **more) if not path.endswith("1.nii.gz") else 1 / 0

    monkeypatch.setattr(record_module, "read", broken)
    found = Record().facts(files)
    assert [type(found[file]) for file in files] == [Facts, ScanFault, Facts]
    assert str(found[files[1]]) == "1.nii.gz cannot be read: ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"reader": "", "files": {}}',
        '{"version": 5}',
        f'{{"reader": "{reader()}", "files": {{"a": {{}}}}}}',
        "\udcff",
    ],
)
def test_a_record_that_cannot_be_read_is_made_anew(tmp_path, seen, content):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    Record(path).facts(files)
    assert len(seen) == 1
    assert set(json.loads(path.read_text())["files"]) == set(files)
    Record(path).facts(files)
    assert len(seen) == 1


def test_a_record_of_other_code_is_made_anew(tmp_path, seen):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    Record(path).facts(files)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"reader": "another"}))
    Record(path).facts(files)
    assert len(seen) == 2


def test_a_record_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, caplog):
    files = volumes(tmp_path)
    (tmp_path / "file").touch()
    record = Record(tmp_path / "file/record.json")
    with caplog.at_level(logging.INFO, logger="custom.cohort.record"):
        assert all(isinstance(facts, Facts) for facts in record.facts(files[:1]).values())
        record.facts(files[1:])
    (said,) = [r for r in caplog.records if r.name == "custom.cohort.record"]
    assert said.levelno == logging.INFO
    assert said.getMessage().startswith("What was read is not recorded, the next check reads every scan again: ")
    assert record.known(files[0])


def test_where_there_is_no_folder_yet_nothing_is_recorded_and_nothing_said(tmp_path, caplog):
    """An inference makes its own when its scans are found to be good."""
    files = volumes(tmp_path)
    with caplog.at_level(logging.INFO):
        assert all(isinstance(facts, Facts) for facts in Record(tmp_path / "out/checked.json").facts(files).values())
    assert not caplog.records
    assert not (tmp_path / "out").exists()


def test_a_record_without_a_path_stays_in_memory(tmp_path, seen):
    files, record = volumes(tmp_path / "scans"), Record()
    assert record.facts(files) == record.facts(files)
    assert len(seen) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_no_file_is_no_work(tmp_path):
    assert Record(tmp_path / "record.json").facts([]) == {}
    assert not (tmp_path / "record.json").exists()


# the same answers as without


def test_a_report_with_the_record_is_the_report_without(good):
    good.bytes("images/p2.nii.gz", lambda content: content[:-90])
    good.write("labels/p1.nii.gz", np.full((16, 16, 16), 1.5, np.float32))
    good.write("images/p3.nii.gz", np.zeros((16, 16, 16), np.int16), np.diag([30.0, 1, 1, 1]))
    record, task = good.folder / "list.checked.json", {"channels": ["image"], "classes": ["background", "tumour"]}
    without = Check(**task).report(good.parts)
    assert without.faults
    assert without.odd
    for recorded in (0, len(without.facts)):
        found = Check(**task, record=record).report(good.parts)
        assert (found.text(), found.warnings(), found.notes) == (without.text(), without.warnings(), without.notes)
        assert (found.facts, found.recorded) == (without.facts, recorded)


def test_again_reads_every_file_and_records_it(good, seen, capsys):
    path = write_list(good)
    for option, files in (
        ([], "9 files read, 0"),
        ([], "0 files read, 9"),
        (["--again"], "9 files read, 0"),
        ([], "0 files"),
    ):
        main(["check", str(path), "--task", str(ROOT / "custom/tasks/phantom_3d.yaml"), *option])
        assert files in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["check", str(path), "--again", "--no-record"])
    assert "--no-record: not allowed with argument --again" in capsys.readouterr().err


# what counts as changed


@pytest.mark.fault("20", "overwritten at once by a file of the same size, again and again")
def test_a_file_overwritten_within_one_tick_of_the_clock_is_read_again(tmp_path):
    file, path = tmp_path / "a.nii", tmp_path / "record.json"
    for number in range(12):
        with file.open("r+b" if number else "wb") as opened:  # the same inode
            opened.write(write_nifti(tmp_path / "new.nii", VOXELS + number).read_bytes())
        assert Record(path).facts([str(file)])[str(file)] == read(file, label=False)


def test_a_file_that_is_written_on_and_on_is_read_and_not_recorded(tmp_path, seen, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(record_module, "TICK_S", 1000.0)
    monkeypatch.setattr(record_module, "COARSE_TICK_S", 1000.0)
    monkeypatch.setattr("time.sleep", waited.append)
    files = volumes(tmp_path, 1)
    for _ in range(2):
        assert isinstance(Record(tmp_path / "record.json").facts(files)[files[0]], Facts)
    assert [990 < seconds <= 1000 for seconds in waited] == [True, True]
    assert len(seen) == 2
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(
    ("at", "wait"),
    [
        (10**18 + 5, 0.02),  # now
        (10**18 + 5 - 5 * 10**6, 0.015),
        (10**18 + 5 - 2 * 10**7, 0.0),
        (10**18 - 10**9, 1.0 - 5e-9),  # a whole second: of a file system that knows no less
        (10**18 - 2 * 10**9, 0.0),
        (10**18 + 5 + 10**10, 0.0),  # ten seconds ahead: another clock
    ],
)
def test_how_long_a_file_is_too_young(at, wait):
    assert record_module._wait_s(10**18 + 5, at) == pytest.approx(wait)


def test_another_file_in_its_place_is_read_again(tmp_path, seen):
    (file,) = volumes(tmp_path, 1)
    Record(tmp_path / "record.json").facts([file])
    one = record_module._signature(file)[0]
    os.replace(write_nifti(tmp_path / "other.nii.gz", VOXELS), file)
    assert record_module._signature(file)[0] != one
    Record(tmp_path / "record.json").facts([file])
    assert len(seen) == 2


# other code


def test_what_other_code_read_is_not_believed(tmp_path, seen, monkeypatch):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    Record(path).facts(files)
    monkeypatch.setattr(record_module, "reader", lambda: "other")
    Record(path).facts(files)
    assert len(seen) == 2
    assert json.loads(path.read_text())["reader"] == "other"


@pytest.mark.parametrize("name", ["facts.py", "formats/nifti.py"])
def test_a_changed_line_of_the_reading_code_is_other_code(tmp_path, monkeypatch, name):
    room = tmp_path / "custom/cohort"
    for pattern in record_module.READING:
        for file in Path(record_module.__file__).parent.glob(pattern):
            copy = (
                room / file.relative_to(Path(record_module.__file__).parent)
                if ".." not in pattern
                else room.parent / file.name
            )
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    before = reader()
    monkeypatch.setattr(record_module, "__file__", str(room / "record.py"))
    assert reader() == before
    (room / name).write_text((room / name).read_text(encoding="utf-8") + "# other", encoding="utf-8")
    code.digest.cache_clear()
    assert reader() != before


def test_all_that_reading_imports_of_ours_is_in_its_digest():
    """The syntax trees say what is imported: whoever adds a module to a reader must name it."""
    room = Path(record_module.__file__).parent
    named = {file.resolve() for pattern in record_module.READING for file in room.glob(pattern)}
    for file in named:
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                for target in [base, *(base / alias.name for alias in node.names)]:
                    if target.with_suffix(".py").is_file():
                        assert target.with_suffix(".py") in named, f"{file.name} imports {target.name}"


# several processes, and ends


NOTHING = """
from custom.cohort import record
from custom.cohort.facts import Facts
# nothing is imported, nothing read
record.load_libraries = lambda paths: None
record.read = lambda path, **more: Facts("", "", (1, 1), 1, (1.0, 1.0), ((0.0,) * 4,) * 4, "int16", 0.0, 1.0, (), 0, None)
"""
ADDS = f"""{NOTHING}
import sys
record.PATIENCE_S = 60.0
folder, own = sys.argv[1:]
for number in range(10):
    record.Record(folder + "/record.json").facts([f"{{folder}}/{{own}}{{number}}.nii.gz"])
"""


@pytest.mark.fault("20", "three processes that record at once")
def test_processes_that_record_at_once_lose_nothing(tmp_path):
    for own in "abc":
        for number in range(10):
            write_nifti(tmp_path / f"{own}{number}.nii.gz", VOXELS)
    started = [subprocess.Popen([sys.executable, "-c", ADDS, str(tmp_path), own], cwd=ROOT) for own in "abc"]
    assert [process.wait(120) for process in started] == [0, 0, 0]
    assert len(json.loads((tmp_path / "record.json").read_text())["files"]) == 30
    assert not list(tmp_path.glob(".*"))


KILLED = f"""{NOTHING}
import os, signal, sys
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
record.Record(sys.argv[1] + "/record.json").facts([sys.argv[1] + "/1.nii.gz"])
"""


@pytest.mark.fault("20", "kill -9 while the record is written")
def test_a_writer_that_is_killed_leaves_the_record_as_it_was(tmp_path, seen):
    files, path = volumes(tmp_path), tmp_path / "record.json"
    Record(path).facts(files[:1])
    before = path.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob(".record.json.*.tmp"))) == 1
    Record(path).facts(files)
    assert sorted(seen) == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]
    assert not list(tmp_path.glob(".*"))


def test_what_was_read_before_an_interruption_is_recorded(tmp_path, seen, monkeypatch):
    files, path = volumes(tmp_path), tmp_path / "record.json"
    noting = record_module.read

    def interrupted(file: str, **more: bool) -> Facts:
        if file == files[2]:
            raise KeyboardInterrupt
        return noting(file, **more)

    monkeypatch.setattr(record_module, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Record(path).facts(files, workers=1)
    assert list(json.loads(path.read_text())["files"]) == files[:2]


def test_what_was_read_is_recorded_now_and_then(tmp_path, monkeypatch):
    files, path, sizes = volumes(tmp_path), tmp_path / "record.json", []

    def write(to: Path, text: str) -> None:
        sizes.append(len(json.loads(text)["files"]))
        to.write_text(text)

    monkeypatch.setattr(record_module, "EVERY_S", 0.0)
    monkeypatch.setattr(record_module, "write_text", write)
    Record(path).facts(files)
    assert sizes == [1, 2, 3]


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    files, path = volumes(tmp_path, 1), tmp_path / "record.json"
    monkeypatch.setattr(record_module, "PATIENCE_S", 0.05)
    with record_module._alone(path):
        Record(path).facts(files)
    assert list(json.loads(path.read_text())["files"]) == files


@pytest.mark.parametrize(("there", "threads"), [(1, 1), (3, 3), (64, record_module.MOST_THREADS)])
def test_as_many_threads_read_as_there_are_cores(tmp_path, monkeypatch, there, threads):
    asked: list[int] = []
    pool = record_module.ThreadPoolExecutor
    monkeypatch.setattr(record_module.cores, "count", lambda: there)
    monkeypatch.setattr(record_module, "ThreadPoolExecutor", lambda count: asked.append(count) or pool(count))
    Record().facts(volumes(tmp_path, 1))
    assert asked == [threads]
