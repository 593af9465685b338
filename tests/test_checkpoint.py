"""The promises of custom/run/checkpoint.py and custom/files.py; kills are in tests/faults/test_kill_while_writing.py."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saying import raises, says

from custom import files
from custom.files import FileError, sweep, write_atomically
from custom.run.checkpoint import CheckpointError, differences, newest, save

ROOT = Path(__file__).parents[1]


def state_of(epoch: int) -> dict:
    return {"epoch": epoch, "weights": torch.full((1000,), float(epoch))}


def save_all(folder: Path, *epochs: int, keep: int = 2) -> None:
    for epoch in epochs:
        save(state_of(epoch), folder, epoch, keep)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def truncate(path: Path, fraction: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * fraction))


def epoch_of_newest(folder: Path) -> int:
    found = newest(folder)
    assert found is not None
    state, path = found
    assert path == folder / f"last_{state['epoch']:04d}.pt"
    torch.testing.assert_close(state, state_of(state["epoch"]), rtol=0, atol=0)
    return state["epoch"]


# Writing


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (1, ["last_0004.pt"]),
        (2, ["last_0003.pt", "last_0004.pt"]),
        (9, ["last_0001.pt", "last_0002.pt", "last_0003.pt", "last_0004.pt"]),
    ],
)
def test_the_newest_are_kept_and_nothing_else_is_left(tmp_path, keep, left):
    save_all(tmp_path, 1, 2, 3, 4, keep=keep)
    assert names(tmp_path) == left
    assert epoch_of_newest(tmp_path) == 4


def test_other_files_are_never_removed(tmp_path):
    others = [".lock", "best.pt", "last_0001.pt.txt", "metrics.csv", "xlast_0001.pt"]
    for name in others:
        (tmp_path / name).touch()
    save_all(tmp_path, 1, 2, 3)
    assert names(tmp_path) == sorted([*others, "last_0002.pt", "last_0003.pt"])


@pytest.mark.fault("1", "order of writing, renaming and removing")
def test_the_new_one_is_whole_under_its_name_before_an_old_one_is_removed(tmp_path, monkeypatch):
    save_all(tmp_path, 1, 2)
    removed = []
    unlink = Path.unlink

    def watched(path: Path, missing_ok: bool = False) -> None:
        assert epoch_of_newest(tmp_path) == 3
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    save_all(tmp_path, 3)
    assert removed == ["last_0001.pt"]


@pytest.mark.fault("1", "order of writing, renaming and removing")
def test_content_is_on_the_disk_before_the_name_and_the_name_before_a_removal(tmp_path, monkeypatch):
    save_all(tmp_path, 1, 2)
    done = []

    def note(name, function):
        def noted(*args, **kwargs):
            done.append(name)
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(os, "fsync", note("fsync", os.fsync))
    monkeypatch.setattr(os, "replace", note("replace", os.replace))
    monkeypatch.setattr(Path, "unlink", note("unlink", Path.unlink))
    save_all(tmp_path, 3)
    assert done == ["fsync", "replace", "fsync", "unlink"]


def test_when_renaming_fails_the_old_ones_stay_and_no_litter_does(tmp_path, monkeypatch):
    save_all(tmp_path, 1, 2)

    def fails(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(
        CheckpointError, match=r"Cannot write last_0003\.pt: Input/output error on .*Kept last_0002\.pt\.$"
    ):
        save_all(tmp_path, 3)
    assert names(tmp_path) == ["last_0001.pt", "last_0002.pt"]
    assert epoch_of_newest(tmp_path) == 2


def test_a_finished_file_is_replaced_never_changed_in_place(tmp_path):
    path = save(state_of(1), tmp_path, 1)
    with path.open("rb") as earlier:  # an open file stays what it was only if the name now leads to another one
        before = path.read_bytes()
        save({"other": torch.ones(7)}, tmp_path, 1)
        assert earlier.read() == before
    assert path.read_bytes() != before


def test_a_later_checkpoint_which_could_not_be_read_does_not_push_out_the_new_one(tmp_path):
    save_all(tmp_path, 5, 6, 7)
    truncate(tmp_path / "last_0007.pt")
    save_all(tmp_path, 4, keep=1)  # epochs at and after the one written are not for it to remove
    assert names(tmp_path) == ["last_0004.pt", "last_0006.pt", "last_0007.pt"]
    save_all(tmp_path, 7)
    assert names(tmp_path) == ["last_0006.pt", "last_0007.pt"]
    assert epoch_of_newest(tmp_path) == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1.0), r"state\['schedule'\]\[0\] is a numpy\.float64: a checkpoint holds tensors and plain types"),
        (Path("x"), r"state\['schedule'\]\[0\] is a pathlib(\._local)?\.PosixPath"),
        ({np.int64(1): 2}, r"key .* of state\['schedule'\]\[0\] is a numpy\.int64"),
    ],
)
def test_what_could_not_be_read_back_is_refused_when_it_is_written(tmp_path, value, text):
    with pytest.raises(TypeError, match=text):
        save({"schedule": [value]}, tmp_path, 1)
    assert names(tmp_path) == []


def test_states_of_a_network_its_optimiser_and_schedule_come_back(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimiser = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser)
    network(torch.randn(2, 1, 8, 8)).sum().backward()
    optimiser.step()
    schedule.step()
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "rng": torch.get_rng_state(),
        "config": {"widths": [16, 32], "rate": 1e-3, "name": None},
    }
    save(state, tmp_path, 1)
    found = newest(tmp_path)
    assert found is not None
    assert repr(found[0]["config"]) == repr(state["config"])
    torch.testing.assert_close(found[0], state, rtol=0, atol=0)


@pytest.mark.parametrize(("epoch", "keep", "text"), [(-1, 2, "epoch .* got -1"), (1, 0, "keep .* got 0")])
def test_numbers_out_of_range_are_refused(tmp_path, epoch, keep, text):
    with pytest.raises(ValueError, match=text):
        save({}, tmp_path, epoch, keep)


# A disk that is full


FULL = """
import resource
from pathlib import Path
import torch
from custom.run.checkpoint import save
folder = Path({folder!r})
save({{"epoch": 1, "weights": torch.full((1000,), 1.0)}}, folder, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
save({{"epoch": 2, "weights": torch.zeros(3_000_000)}}, folder, 2)
print("not reached")
"""


@pytest.mark.fault("3", "RLIMIT_FSIZE in a child")
def test_a_file_that_cannot_grow_ends_the_run_with_what_is_needed_and_the_earlier_one_loads(tmp_path):
    child = subprocess.run(
        [sys.executable, "-c", FULL.format(folder=str(tmp_path))], cwd=ROOT, capture_output=True, text=True
    )
    assert child.returncode == 1
    assert child.stdout == ""
    last_line = child.stderr.strip().splitlines()[-1]
    found = ("CheckpointError: Cannot write last_0002.pt", "(ulimit -f)", f"on {tmp_path}", "needs 12.0 MB", "free")
    says(last_line, *found, "Kept last_0001.pt")
    assert names(tmp_path) == ["last_0001.pt"]
    assert epoch_of_newest(tmp_path) == 1


def full(file) -> None:
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def free_bytes(monkeypatch, count: int) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": count}))


@pytest.mark.fault("3", "no space left")
def test_no_space_is_reported_with_needed_and_free_and_what_was_kept(tmp_path, monkeypatch):
    free_bytes(monkeypatch, 300_000_000)
    save_all(tmp_path, 6, 7)
    found = ("Cannot write last_0008.pt", f"no space on {tmp_path}", "needs 1.2 GB", "300.0 MB free")
    with raises(FileError, *found, "Kept last_0007.pt"):
        write_atomically(tmp_path / "last_0008.pt", full, needed=1_200_000_000, kept="last_0007.pt")
    assert names(tmp_path) == ["last_0006.pt", "last_0007.pt"]


@pytest.mark.fault("3", "no space left")
def test_any_file_written_whole_or_not_at_all(tmp_path, monkeypatch):
    free_bytes(monkeypatch, 0)
    path = tmp_path / "best.json"
    with pytest.raises(FileError) as caught:
        write_atomically(path, full)
    assert (
        str(caught.value)
        == f"Cannot write best.json: no space on {tmp_path} (0 bytes free). Nothing was written before."
    )
    assert names(tmp_path) == []

    write_atomically(path, lambda file: file.write(b"first"))
    with pytest.raises(FileError, match=r"Kept the earlier best\.json\.$"):
        write_atomically(path, full)
    with pytest.raises(ZeroDivisionError):
        write_atomically(path, lambda file: file.write(b"x") / 0)
    assert names(tmp_path) == ["best.json"]
    assert path.read_bytes() == b"first"


def test_a_missing_folder_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"No such file or directory on .*gone.*Nothing was written before\.$"):
        save(state_of(1), tmp_path / "gone", 1)


# Reading


def test_a_new_folder_has_no_checkpoint(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "not made yet") is None


@pytest.mark.fault("2b", "newest cut at 0, 10, 50, 99 %")
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_truncated_newest_goes_back_to_the_one_before_and_says_so(tmp_path, caplog, fraction):
    save_all(tmp_path, 6, 7)
    truncate(tmp_path / "last_0007.pt", fraction)
    with caplog.at_level(logging.WARNING):
        assert epoch_of_newest(tmp_path) == 6
    assert caplog.messages == ["last_0007.pt cannot be read (truncated?). Resuming from last_0006.pt."]


@pytest.mark.fault("2b", "one bit flipped")
def test_a_flipped_bit_in_the_weights_is_found(tmp_path, caplog):
    save_all(tmp_path, 6, 7)
    path = tmp_path / "last_0007.pt"
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((1000,), 7.0).numpy().tobytes()) + 2000] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["epoch"] == 7  # torch alone takes it: the check is needed
    assert epoch_of_newest(tmp_path) == 6
    assert "last_0007.pt cannot be read (damaged: the checksum of archive/data/0 is wrong)." in caplog.text


@pytest.mark.fault("2b", "all cut")
def test_none_readable_is_an_error_with_the_names_and_the_remedy(tmp_path):
    save_all(tmp_path, 6, 7)
    truncate(tmp_path / "last_0006.pt")
    truncate(tmp_path / "last_0007.pt")
    found = (f"No checkpoint in {tmp_path}", "last_0007.pt (truncated?)", "last_0006.pt (truncated?)")
    with raises(CheckpointError, *found, "Delete them", "another output_dir"):
        newest(tmp_path)
    assert names(tmp_path) == ["last_0006.pt", "last_0007.pt"]


class Payload:
    """Unpickled without care it makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.fault("10", "a payload as a checkpoint")
@pytest.mark.parametrize(
    ("dump", "reason"),
    [
        (torch.save, "it holds posix.system"),
        (lambda value, path: path.write_bytes(pickle.dumps(value)), "it is not a file of torch.save"),
    ],
    ids=["zip", "bare pickle"],
)
def test_a_malicious_pickle_is_refused_and_its_payload_does_not_run(tmp_path, caplog, dump, reason):
    runs, marker = tmp_path / "runs", tmp_path / "marker"
    runs.mkdir()
    save_all(runs, 6)
    dump({"epoch": 7, "weights": Payload(marker)}, runs / "last_0007.pt")
    assert epoch_of_newest(runs) == 6
    assert caplog.messages == [
        f"last_0007.pt cannot be read (refused: {reason}, nothing was run). Resuming from last_0006.pt."
    ]
    assert not marker.exists()

    (runs / "last_0006.pt").unlink()
    with pytest.raises(CheckpointError, match=r"last_0007\.pt \(refused: "):
        newest(runs)
    assert not marker.exists()


def test_what_is_not_a_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "last_0001.pt")
    with pytest.raises(CheckpointError, match=r"last_0001\.pt \(holds a list, not a dict\)"):
        newest(tmp_path)


@pytest.mark.fault("1", "litter of killed writers")
def test_sweep_removes_the_litter_of_writers_and_nothing_else(tmp_path):
    ours = [".best.pt.1.tmp", ".last_0003.pt.4121.tmp"]
    others = [".lock", ".mine.tmp", "last_0002.pt", "notes.12.tmp"]
    for name in [*ours, *others]:
        (tmp_path / name).touch()
    assert [path.name for path in sweep(tmp_path)] == ours
    assert names(tmp_path) == others
    assert sweep(tmp_path / "not made yet") == []


# Comparing configs


def config(**changes) -> dict:
    return {
        "network_def": {"widths": [16, 32], "residual": True},
        "train": {"trainer": {"max_epochs": 6}, "steps": ["flip", {"noise": 0.1}]},
        "output_dir": "runs/a",
        **changes,
    }


def test_equal_configs_have_no_differences():
    assert differences(config(), config(), free=[]) == []
    assert (
        differences({"a": (1, 2), "b": float("nan"), "c": {}}, {"a": [1, 2.0], "b": float("nan"), "c": {}}, free=[])
        == []
    )


@pytest.mark.fault("2c", "one key changed")
@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            {"network_def": {"widths": [16, 64], "residual": True}},
            ["written with network_def::widths=[16, 32], this config has [16, 64]"],
        ),
        (
            {"network_def": {"widths": [16, 32], "residual": 1}},
            ["written with network_def::residual=True, this config has 1"],
        ),
        (
            {"network_def": {"widths": [16, 32]}},
            ["written with network_def::residual=True, this config has it absent"],
        ),
        ({"ema": None}, ["written with ema absent, this config has None"]),
        (
            {"train": {"trainer": {"max_epochs": 6}, "steps": ["flip", {"noise": 0.2}]}},
            ["written with train::steps::1::noise=0.1, this config has 0.2"],
        ),
    ],
)
def test_a_changed_key_is_named_with_both_values(change, lines):
    assert differences(config(), config(**change), free=["output_dir", "train::trainer"]) == lines


def test_what_is_free_may_change_and_what_only_begins_like_it_may_not():
    now = config(output_dir="runs/b", train={"trainer": {"max_epochs": 9, "more": {"deep": 1}}, "steps": []})
    lines = differences({**config(), "output_dir_2": 1}, now, free=["output_dir", "train::trainer", "train::steps"])
    assert lines == ["written with output_dir_2=1, this config has it absent"]
