"""Trainings side by side: what is done stays done, what changed runs anew, a failure and a stop lose nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from saying import says
from waiting import until

from custom.study import jobs as module
from custom.study.jobs import Job, Runner, Stopped, lengths, whole_epochs
from custom.study.time_left import Speed, minutes

# In the place of scripts.study.commands: leaves the files that the commands leave.
STANDIN = (
    f"TESTS = {str(ROOT / 'tests')!r}"
    + """
import json, sys
from pathlib import Path
sys.path.insert(0, TESTS)
from waiting import until
for command in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    o = command["overrides"]
    out = Path(o["output_dir"])
    with open(out.parent / "done.txt" if "model_file" in o else out / "done.txt", "a") as file:
        file.write(command["run_id"] + " " + str(o.get("resume", "")) + "\\n")
    if o.get("seed") == 13:
        print("a fault: found 13, expected 12"); sys.exit(3)
    if o.get("seed") == 7 and command["run_id"] == "training":  # runs until it was told of
        (out / "metrics.csv").write_text("epoch,step,seconds\\n1,2,30\\n2,4,10\\n"); (out / "last_0002.pt").touch()
        until((out / "told").exists)
    if o.get("seed") == 99:
        (out / "last_0001.pt").touch(); until(lambda: False)
    if command["run_id"] == "training":
        (out / "bundle").mkdir(exist_ok=True); (out / "bundle/run.json").write_text("{}")
    elif "model_file" in o:
        out.mkdir(exist_ok=True); (out / "confidence.json").write_text("{}")
    else:
        (out / "evaluation/test").mkdir(parents=True, exist_ok=True); (out / "evaluation/test/summary.json").write_text("{}")
"""
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    folder = tmp_path / "bundles/any/scripts/study"
    folder.mkdir(parents=True)
    (folder / "commands.py").write_text(STANDIN)
    (tmp_path / "bundles/any/configs").mkdir()
    (tmp_path / "bundles/any/configs/train.yaml").write_text("ema_decay: 0.99\n")
    (tmp_path / "bundles/any/configs/inference.yaml").write_text("norm: batch\nwidths: [16]\n")
    monkeypatch.setattr(module, "BUNDLES", tmp_path / "bundles")
    (tmp_path / "task.yaml").write_text("patch: [1]\n")
    (tmp_path / "list.json").write_text(json.dumps({"test": [1], "labelled": []}))
    (tmp_path / "images").mkdir()
    return tmp_path


def job(study: Path, name: str = "a", seed: int = 0, steps: int = 40) -> Job:
    return Job(name, "any", study / "list.json", study / "task.yaml", steps, seed, study / "images", f"title of {name}")


def commands_of(study: Path, name: str = "a") -> list[str]:
    return (study / "runs" / name / "done.txt").read_text(encoding="utf-8").splitlines()


def test_a_job_trains_is_judged_and_segments_once(study):
    lines: list[str] = []
    for _ in range(2):
        assert Runner(study / "runs", 2, 1, lines.append).run([job(study), job(study, "b")]) == {}
    assert commands_of(study) == ["training False", "run ", "run "]
    assert "2/2  title of" in lines[1]
    assert lines[-1] == "2 of 2 trainings are done already."


def test_what_runs_is_said_with_its_steps_every_minute(study, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    now, lines = [0.0], []

    def clock() -> float:
        if (study / "runs/a/last_0002.pt").exists():
            now[0] += 60.0
        return now[0]

    def tell(text: str) -> None:
        lines.append(text)
        if text.startswith(("running", "1/2")):
            told = study / f"runs/{'a' if text.startswith('running') else 'b'}/told"
            told.parent.mkdir(parents=True, exist_ok=True)
            told.touch()

    # 10 s a step: 36 steps of the first and 404 of the second, of which four may be done when the first has ended
    assert Runner(study / "runs", 1, 1, tell, clock).run([job(study, seed=7), job(study, "b", 7, steps=404)]) == {}
    assert lines[0] == "running  title of a: step 4 of 40; about 1 h 13 min left of all trainings"
    assert "1/2  title of a; about 1 h 7 min left of all trainings" in lines
    assert lines[-1] == "2/2  title of b"


def test_before_the_first_epoch_the_time_left_is_as_the_plan_measured_it(study):
    speed = Speed({"any": 5.0}, {"any": 7.0}, scan=0.5, reading=100.0)
    for name in ("p1", "p2"):
        (study / "images" / name).touch()
    waiting: dict[Future[None], Job] = {Future(): job(study)}
    # the start, 40 steps, one scan that judges by two networks, two that are segmented, and the reading
    left = 7 + 40 * 5 + 2 * 0.5 + 2 * 0.5 + 100
    assert Runner(study / "runs", 1, 1, speed=speed)._left(waiting, []) == (
        f"; about {minutes(left)} left of all trainings"
    )
    assert Runner(study / "runs", 1, 1)._left(waiting, []) == ""


def test_how_far_a_training_is(study):
    runner, folder = Runner(study / "runs", 1, 1), study / "runs/a"
    (folder / "bundle").mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,step\n1,2\n2,4.0\n")
    assert runner.how_far(job(study)) == "step 0 of 40"  # the table of an earlier plan: its checkpoints are gone
    (folder / "last_0002.pt").touch()
    assert runner.how_far(job(study)) == "step 4 of 40"
    (folder / "bundle/run.json").touch()
    assert runner.how_far(job(study)) == "is scored"
    (folder / "evaluation/test").mkdir(parents=True)
    (folder / "evaluation/test/summary.json").touch()
    assert runner.how_far(job(study)) == "segments its scans"
    assert runner.how_far(Job(**{**vars(job(study)), "maps_of": None})) == "is scored"


def test_trainings_shorter_than_a_minute_are_not_spoken_of(study, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    lines: list[str] = []
    Runner(study / "runs", 1, 1, lines.append, clock=lambda: 0.0).run([job(study)])
    assert lines == ["1/1  title of a"]


@pytest.mark.parametrize("change", ["steps", "task", "list"])
def test_what_changed_runs_anew_and_the_rest_stays(study, change):
    Runner(study / "runs", 1, 1, lambda _: None).run([job(study), job(study, "b")])
    first = job(study, steps=60 if change == "steps" else 40)
    if change == "task":
        (study / "other.yaml").write_text("patch: [2]\n")
        first = Job(**{**vars(first), "task": study / "other.yaml"})
    if change == "list":
        (study / "other.json").write_text(json.dumps({"test": [1], "labelled": [2]}))
        first = Job(**{**vars(first), "data_list": study / "other.json"})
    runner = Runner(study / "runs", 1, 1, lambda _: None)
    assert not runner.done(first)
    runner.run([first, job(study, "b")])
    assert commands_of(study) == ["training False", "run ", "run "] * 2
    assert len(commands_of(study, "b")) == 3


def test_a_failure_is_told_with_the_end_of_its_log_and_the_others_are_done(study):
    failed = Runner(study / "runs", 1, 1, lambda _: None).run([job(study, "bad", seed=13), job(study)])
    assert list(failed) == ["bad"]
    assert failed["bad"].startswith("it ended with 3; the end of ")
    assert failed["bad"].endswith("a fault: found 13, expected 12")
    assert len(commands_of(study)) == 3


def test_why_a_job_failed_is_known_to_the_next_call_until_it_changes_or_is_done(study):
    failed = Runner(study / "runs", 1, 1, lambda _: None).run([job(study, "bad", seed=13)])
    later = Runner(study / "runs", 1, 1, lambda _: None)
    assert later.failures([job(study), job(study, "bad", seed=13)]) == failed
    assert later.failures([job(study, "bad", seed=14)]) == {}
    later.done = lambda _: True
    assert later.failures([job(study, "bad", seed=13)]) == {}
    again = Runner(study / "runs", 1, 1, lambda _: None)
    assert again.run([job(study, "bad")]) == again.failures([job(study, "bad")]) == {}
    assert not (study / "runs/bad/job/failed.txt").exists()


def test_a_disk_that_fills_is_that_training_s_failure_and_the_next_call_goes_on_from_its_checkpoint(study):
    """The trainer's own writer, on a disk that is full from the second checkpoint on."""
    standin, freed = study / "bundles/any/scripts/study/commands.py", study / "freed"
    full = f"""
import errno, json, os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from custom.files import FileError, write_text
(command, *_), freed = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path({str(freed)!r})
out = Path(command["overrides"]["output_dir"])
if command["overrides"].get("seed") == 28 and command["run_id"] == "training" and not freed.exists():
    (out / "last_0001.pt").write_text("whole"); (out / "metrics.csv").write_text("epoch,step,seconds\\n1,2,1\\n")
    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync = no_space
    try:
        write_text(out / "last_0002.pt", "half")
    except FileError as error:
        sys.exit(str(error))
"""
    standin.write_text(full + STANDIN)
    works = [job(study, "full", seed=28), job(study), job(study, "b")]
    failed = Runner(study / "runs", 1, 1, lambda _: None).run(works)
    assert list(failed) == ["full"]
    says(failed["full"], "ended with 1", "Cannot write last_0002.pt", "no space on", "runs/full")
    assert [path.name for path in (study / "runs/full").glob("*last_*")] == ["last_0001.pt"], "whole or not there"
    assert [len(commands_of(study, name)) for name in "ab"] == [3, 3]
    freed.touch()
    lines: list[str] = []
    assert Runner(study / "runs", 1, 1, lines.append).run(works) == {}
    assert lines[0] == "2 of 3 trainings are done already."
    assert commands_of(study, "full") == ["training True", "run ", "run "]
    assert (study / "runs/full/last_0001.pt").read_text() == "whole"


def test_what_an_earlier_plan_left_is_not_taken_for_a_training_that_failed_since(study):
    Runner(study / "runs", 1, 1, lambda _: None).run([job(study)])
    (study / "runs/a/last_0001.pt").touch()
    changed, runner = job(study, seed=13), Runner(study / "runs", 1, 1, lambda _: None)
    assert list(runner.run([changed])) == ["a"]
    assert not runner.done(changed)
    (training, *_) = runner._commands(changed, study / "runs/a", same=True)  # as the next call finds it
    assert (training["run_id"], training["overrides"]["resume"]) == ("training", False)


def test_a_stopped_training_goes_on_from_its_checkpoint(study):
    runner = Runner(study / "runs", 1, 1, lambda _: None)
    checkpoint = study / "runs/long/last_0001.pt"

    def stop() -> None:
        until(checkpoint.exists)
        runner.stop()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Stopped):
        runner.run([job(study, "long", seed=99), job(study)])
    thread.join()
    assert not (study / "runs/a/done.txt").exists()  # none begins after a stop
    plan = Runner(study / "runs", 1, 1)._commands(job(study, "long", seed=99), study / "runs/long", same=True)
    assert plan[0]["overrides"]["resume"] is True


def test_ctrl_c_ends_the_trainings_and_says_so(study):
    code = f"""
        import sys
        from pathlib import Path
        sys.path[:0] = [{str(ROOT)!r}]
        from custom.study import jobs
        jobs.BUNDLES = Path({str(study / "bundles")!r})
        here = Path({str(study)!r})
        job = jobs.Job("long", "any", here / "list.json", here / "task.yaml", 40, 99)
        try:
            jobs.Runner(here / "runs", 1, 1).run([job])
        except jobs.Stopped:
            print("stopped")
        """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    until((study / "runs/long/last_0001.pt").exists, child)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=60)[0].strip() == "stopped"


def test_lengths_are_about_twenty_whole_epochs():
    assert lengths(400) == {"steps": 400, "epoch_steps": 20}
    assert lengths(7) == {"steps": 7, "epoch_steps": 1}
    assert whole_epochs(419.0) == 400
    assert whole_epochs(0.3 / 0.1 * 100) == 300
    assert all(lengths(n)["steps"] % lengths(n)["epoch_steps"] == 0 for n in map(whole_epochs, range(1, 3000, 17)))


def test_a_label_that_was_corrected_in_its_place_is_another_one(study):
    label = study / "p1.nii"
    label.write_bytes(b"first")
    (study / "list.json").write_text(json.dumps({"test": [1], "labelled": [{"image": "p1", "label": str(label)}]}))
    runner = Runner(study / "runs", 1, 1, lambda _: None)
    runner.run([job(study)])
    assert runner.done(job(study))
    label.write_bytes(b"second")
    assert not runner.done(job(study))


def test_an_image_that_was_replaced_in_its_place_is_another_one_and_a_copy_of_it_is_not(study):
    image = study / "p1.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(image)
    (study / "list.json").write_text(json.dumps({"test": [], "labelled": [], "unlabelled": [{"image": str(image)}]}))
    runner = Runner(study / "runs", 1, 1, lambda _: None)
    runner.run([job(study)])
    image.write_bytes(image.read_bytes())  # written anew, the same
    assert runner.done(job(study))
    assert not module.stale(study / "runs/a", job(study))
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(image)
    assert not runner.done(job(study))
    assert module.stale(study / "runs/a", job(study))
    assert not module.stale(study / "runs/b", job(study, "b"))  # nothing is there


def test_trainings_side_by_side_share_the_memory(study):
    (study / "runs/a/job").mkdir(parents=True)
    plans = [Runner(study / "runs", jobs, 1)._commands(job(study), study / "runs/a", same=False) for jobs in (1, 4)]
    assert [plan[0]["overrides"]["memory_share"] for plan in plans] == [0.6, 0.15]
    own = Job(**{**vars(job(study)), "overrides": {"memory_share": 0.3}})
    assert (
        Runner(study / "runs", 4, 1)._commands(own, study / "runs/a", same=False)[0]["overrides"]["memory_share"] == 0.3
    )


def test_scans_that_inference_refuses_are_a_note_and_no_failure(study, monkeypatch):
    standin = study / "bundles/any/scripts/study/commands.py"
    standin.write_text(STANDIN + "print('p09 is blank: refused'); sys.exit(1)\n")
    lines: list[str] = []
    assert Runner(study / "runs", 1, 1, lines.append).run([job(study)]) == {}
    assert lines[0] == "note: title of a: p09 is blank: refused"


def test_a_training_from_before_labels_were_compared_stays_done(study):
    runner, path = Runner(study / "runs", 1, 1, lambda _: None), study / "runs/a/job/settings.json"
    runner.run([job(study)])
    settings = json.loads(path.read_text())
    del settings["labels"], settings["images"], settings["config"]
    path.write_text(json.dumps(settings))
    assert runner.done(job(study))
    path.write_text(json.dumps({**settings, "seed": 5}))
    assert not runner.done(job(study))


def test_a_bundle_that_an_update_changed_is_trained_anew_and_one_of_other_comments_or_paths_is_not(study):
    runner, config = Runner(study / "runs", 1, 1, lambda _: None), study / "bundles/any/configs/train.yaml"
    config.write_text("ema_decay: 0.99\ntrain:\n  handlers: [one]\n  dataset: {data: here, size: 3}\n")
    runner.run([job(study)])
    config.write_text("ema_decay: 0.99  # of the teacher\nresume: true\ntrain:\n  dataset: {data: there, size: 3}\n")
    assert runner.done(job(study))
    for changed in (
        "ema_decay: 0.999\ntrain:\n  dataset: {size: 3}\n",
        "ema_decay: 0.99\ntrain:\n  dataset: {size: 4}\n",
    ):
        config.write_text(changed)
        assert not runner.done(job(study))
        assert module.stale(study / "runs/a", job(study))


def test_what_decides_on_the_network_reaches_inference_too(study):
    own = Job(**{**vars(job(study)), "overrides": {"norm": "instance", "weights::consistency": 0.5}})
    runner = Runner(study / "runs", 1, 1, lambda _: None)
    runner.run([own])
    *_, last = json.loads((study / "runs/a/job/commands.json").read_text())
    assert last["overrides"]["norm"] == "instance"
    assert "weights::consistency" not in last["overrides"]
