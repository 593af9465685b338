"""What the probe makes of the times that its trainings wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from custom.cohort.split import FoundScan
from custom.study import plan
from custom.study.budget import Costs
from custom.study.jobs import Job
from custom.study.parts import divide, entries_of

BUNDLES = ("supervised", "mean_teacher")
IMPORTS_S, START_S, READING_S, EPOCH_S, SCORED_S = 5.0, 10.0, 600.0, (9.0, 3.0), 4.0


class Instant:
    """Runs nothing and writes what trainings write: the first one reads all scans, the others find them read."""

    rounds: list[list[Job]]
    read = False

    def __init__(self, folder: Path, *_: object, **__: object) -> None:
        self.folder = folder
        Instant.rounds = []

    def done(self, _: Job) -> bool:
        return Instant.read

    def run(self, jobs: list[Job]) -> dict[str, str]:
        reading = READING_S if not Instant.rounds else 0.0
        Instant.rounds.append(jobs)
        for job in jobs:
            if Instant.read and job.name == "reading":
                continue
            out = self.folder / job.name
            (out / "job").mkdir(parents=True)
            epochs = EPOCH_S[: 1 if job.steps == 1 else 2]
            took = {"imports": IMPORTS_S, str(job.task): START_S + reading + sum(epochs)}
            took |= {"configs/evaluate.yaml": SCORED_S} if job.judged else {}
            (out / "job/seconds.json").write_text(json.dumps(took))
            (out / "job/memory.json").write_text('{"imports": 4e8, "peak": 5e8}')
            (out / "metrics.csv").write_text("seconds\n" + "".join(f"{each}\n" for each in epochs))
        return {}


@pytest.fixture
def probed(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "Runner", Instant)
    monkeypatch.setattr(Instant, "read", False)
    (tmp_path / plan.PROBE).mkdir(parents=True)
    return probe(tmp_path)


def probe(folder: Path) -> Costs:
    scans = {f"p{k}": [FoundScan(f"p{k}", Path("i"), Path("l") if k < 4 else None, True)] for k in range(6)}
    part = divide(scans, 2, 0)[0]
    everything = entries_of(plan.replace(part, train=(*part.train, *part.judges), judges=()), scans)
    asked = plan.Asked(Path("i"), Path("l"), 60.0)
    return plan._probe(folder, asked, part, everything, scans, plan.lengths.Voxels(1000, 5000), 5, 1)[0]


def test_the_reading_is_timed_apart_from_the_start_of_a_training(probed):
    assert probed.reading == READING_S
    assert probed.start == dict.fromkeys(BUNDLES, IMPORTS_S + START_S)
    assert probed.step == dict.fromkeys(BUNDLES, EPOCH_S[1] / plan.PROBE_STEPS)
    (reading,), others = Instant.rounds
    assert not reading.judged
    assert [job.bundle for job in others] == [*BUNDLES, *BUNDLES, BUNDLES[0]], "as many at a time as later"
    lists = [json.loads(job.data_list.read_text(encoding="utf-8")) for job in (reading, others[0])]
    assert [len(found["labelled"]) for found in lists] == [4, 2], "all scans are read, not those of one fold alone"


@pytest.mark.parametrize("read", [False, True])
def test_of_a_plan_that_was_stopped_a_reading_that_was_done_is_kept_and_half_of_one_is_not(
    probed, tmp_path, monkeypatch, read
):
    (tmp_path / plan.PROBE / "cache").mkdir()
    monkeypatch.setattr(Instant, "read", read)
    assert probe(tmp_path) == probed
    assert (tmp_path / plan.PROBE / "cache").exists() == read


@pytest.mark.parametrize(
    ("cores", "found"),
    [(1, (1, 1)), (2, (2, 1)), (4, (4, 1)), (5, (5, 1)), (6, (3, 2)), (7, (3, 2)), (8, (4, 2)), (10, (5, 2)), (11, (5, 2)),
     (12, (4, 3)), (16, (4, 4))],
)  # fmt: skip
def test_of_many_cores_few_are_left_idle(monkeypatch, cores, found):
    monkeypatch.setattr(plan.cores, "count", lambda: cores)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert plan._side_by_side(0) == found
    assert plan._side_by_side(2)[0] == 2


def test_scans_that_the_probe_has_preprocessed_stay_for_the_trainings(tmp_path):
    (tmp_path / "work/probe/cache/ab").mkdir(parents=True)
    (tmp_path / "work/probe/cache/ab/abc.scan").write_text("new")
    (tmp_path / "work/cache/ab").mkdir(parents=True)
    (tmp_path / "work/cache/ab/abd.scan").write_text("earlier")
    plan._keep_scans(tmp_path)
    assert sorted(path.name for path in (tmp_path / "work/cache/ab").iterdir()) == ["abc.scan", "abd.scan"]
