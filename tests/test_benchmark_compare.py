"""The command of the benchmark: what it runs, keeps and reports; the child processes."""

import json
import math
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from benchmark_fixtures import lines_of, row
from monai.bundle import ConfigParser
from waiting import until

from benchmarks.compare import __main__ as command
from benchmarks.compare import runs
from benchmarks.compare.results import read_rows
from custom import cores, methods
from custom.methods.schedule import TermWeights
from custom.run.folder import RunFolder
from custom.run.overrides import judge
from custom.study.budget import seconds
from custom.study.side_by_side import Late

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ROOT / "bundles"

TINY = ("steps: 4, epoch_steps: 2, val_interval: 1, labelled_batch: 2, unlabelled_batch: 2, patch: [32, 32], "
        "widths: [4, 8], dropout: [0.0, 0.1], workers: 0, amp: 'off'")  # fmt: skip


@pytest.fixture
def bench(tmp_path, phantoms, run_bundle, monkeypatch):
    """``bench(*arguments)`` is the command on tiny phantoms, its runs in this process; ``bench.calls`` are these."""
    (tmp_path / "sizes.yaml").write_text(
        f"sizes:\n  screen:\n    phantom_2d: {{{TINY}}}\n"
        "variants:\n  slow: {bundle: mean_teacher, overrides: {ema_decay: 0.5}}\n"
    )
    calls = []

    def in_process(bundle, run_id, files, overrides, folder, start):
        calls.append((bundle, run_id, overrides["resume"] if run_id == "training" else None))
        run_bundle(
            BUNDLES / bundle, run_id, files, **{**overrides, "output_dir": str(folder), "dataset_dir": str(phantoms)}
        )
        return 100

    def bench(*arguments):
        where = [f"--{name}={tmp_path / name}" for name in ("output", "rows", "out")]
        return command.main(
            [f"--sizes={tmp_path / 'sizes.yaml'}", f"--lists={phantoms}", *where, "--tasks", "phantom_2d", *arguments]
        )

    monkeypatch.setattr(runs, "_command", in_process)
    bench.calls, bench.folder, bench.sizes = calls, tmp_path, tmp_path / "sizes.yaml"
    return bench


def test_two_cells_of_the_phantom_become_rows_and_a_table(bench, capsys):
    assert bench("--bundles", "supervised", "slow") == 0
    found = {path.name for path in (bench.folder / "rows").iterdir()}
    assert found == {"screen_phantom_2d_supervised_seed0.json", "screen_phantom_2d_slow_seed0.json"}
    rows = {r["name"]: r for r in read_rows(bench.folder / "rows")}
    assert rows["slow"]["bundle"] == "mean_teacher"
    assert (rows["slow"]["overrides"]["ema_decay"], rows["slow"]["steps"], rows["slow"]["peak_mb"]) == (0.5, 4, 100)
    assert [entry["step"] for entry in rows["supervised"]["validation"]] == [2, 4]
    assert all(math.isfinite(case["contrast"]) for case in rows["supervised"]["cases"]["model_final"])
    assert {"dice_mean", "hd95_mm_mean", "boundary_dice"} <= rows["slow"]["cases"]["model"][0].keys()
    text = (bench.folder / "out/compare.md").read_text(encoding="utf-8")
    assert len(lines_of(text, "slow")) == 1
    assert "other sizes" not in text
    assert capsys.readouterr().out.count("test Dice") == 2
    calls = list(bench.calls)
    assert bench("--bundles", "supervised", "slow") == 0  # nothing is missing
    assert bench.calls == calls == [
        *(("supervised", "training", False), ("supervised", "run", None)),
        *(("mean_teacher", "training", False), ("mean_teacher", "run", None)),
    ]  # fmt: skip


@pytest.mark.parametrize("lost", ["bundle/run.json", pytest.param("cost.json", marks=pytest.mark.slow)])
def test_a_training_that_was_killed_in_its_last_files_is_done_again(bench, lost):
    """Final weights are there, what the row is made of is not."""
    assert bench("--bundles", "supervised") == 0
    folder = bench.folder / "output/screen_phantom_2d_supervised_seed0"
    (folder / lost).unlink()
    (bench.folder / "rows/screen_phantom_2d_supervised_seed0.json").unlink()
    assert (folder / "bundle/models/model_final.pt").is_file()
    assert bench("--bundles", "supervised", "--continue") == 0
    assert ("supervised", "training", True) in bench.calls
    assert (folder / lost).is_file()


@pytest.mark.parametrize(
    ("changed", "go_on"),
    [
        ("ema_decay: 0.25", ["--continue"]),
        pytest.param("bundle: low_confidence", [], marks=pytest.mark.slow),
        pytest.param("published: true", [], marks=pytest.mark.slow),
    ],
)
def test_a_finished_run_of_other_settings_is_no_row_of_the_job(bench, capsys, changed, go_on):
    """The row would say what sizes.yaml says now of what was trained before."""
    assert bench("--bundles", "slow") == 0
    folder, written = bench.folder / "output/screen_phantom_2d_slow_seed0", bench.sizes.read_text()
    path = bench.folder / "rows/screen_phantom_2d_slow_seed0.json"
    path.unlink()
    assert bench("--bundles", "slow") == 0
    assert [call[1] for call in bench.calls] == ["training", "run"], "the same settings: only the row is made"
    path.unlink()
    if changed.startswith("ema_decay"):
        bench.sizes.write_text(written.replace("ema_decay: 0.5", changed))
    elif changed.startswith("bundle"):
        bench.sizes.write_text(written.replace("bundle: mean_teacher", changed))
    else:
        bench.sizes.write_text(written.replace("slow: {", f"slow: {{{changed}, "))
    capsys.readouterr()
    assert bench("--bundles", "slow", *go_on) == 0
    said = f"screen_phantom_2d_slow_seed0: {folder} holds a run of other settings, which is set aside: written with "
    assert said in capsys.readouterr().out
    assert [call[1:] for call in bench.calls[2:]] == [("training", False), ("run", None)]
    assert (folder / "earlier/001/bundle/models/model.pt").exists()
    (found,) = read_rows(bench.folder / "rows")
    assert found["overrides"]["ema_decay"] == (0.25 if changed.startswith("ema_decay") else 0.5)


def test_a_command_that_fails_is_reported_and_the_others_go_on(bench, monkeypatch, capsys):
    def fails(bundle, *_):
        raise RuntimeError(f"training ended with 1: {bundle}")

    monkeypatch.setattr(runs, "_command", fails)
    assert bench("--bundles", "supervised", "mean_teacher") == 1
    said = capsys.readouterr().err
    for name in ("supervised", "mean_teacher"):
        assert f"not done: screen_phantom_2d_{name}_seed0: RuntimeError: training ended with 1: {name}" in said


def test_the_end_of_the_budget_keeps_what_was_used_and_continue_resumes(bench, monkeypatch, capsys):
    calls = []

    def stopped(bundle, run_id, files, settings, folder, start):
        calls.append((run_id, settings["resume"]))
        (folder / "last_0001.pt").touch()
        raise Late(300 - 100 * len(calls))

    monkeypatch.setattr(runs, "revision", lambda: f"commit{len(calls)}")
    monkeypatch.setattr(runs, "_command", stopped)
    for go_on in ([], ["--continue"], []):
        assert bench("--bundles", "supervised", *go_on) == 1
    assert calls == [("training", False), ("training", True), ("training", False)]
    assert (
        "screen_phantom_2d_supervised_seed0: the budget ran out during it, --continue goes on"
        in capsys.readouterr().err
    )
    assert not list((bench.folder / "rows").glob("*"))


def test_what_several_calls_used_is_kept_together(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "revision", lambda: "a")
    runs._keep_cost(tmp_path, 200, {})
    monkeypatch.setattr(runs, "revision", lambda: "b+")
    runs._keep_cost(tmp_path, 100, json.loads((tmp_path / "cost.json").read_text(encoding="utf-8")))
    cost = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    assert (cost["peak_mb"], cost["commit"]) == (200, "a b+")


def test_no_time_left_starts_nothing(bench, capsys):
    assert bench("--bundles", "supervised", "--budget", "0s") == 1
    assert bench.calls == []
    assert "not done: screen_phantom_2d_supervised_seed0: no time left" in capsys.readouterr().err


def test_a_run_that_another_call_has_is_skipped(bench, capsys):
    with RunFolder(bench.folder / "output/screen_phantom_2d_supervised_seed0/compare"):
        assert bench("--bundles", "supervised") == 1
    assert bench.calls == []
    assert "screen_phantom_2d_supervised_seed0: skipped. output_dir" in capsys.readouterr().err


def test_the_table_alone_runs_nothing_and_fills_the_page(bench):
    (bench.folder / "rows").mkdir()
    for one in (row("supervised", [0.5] * 6), row("a", [0.6] * 6)):
        (bench.folder / f"rows/{one['name']}.json").write_text(json.dumps(one))
    results = bench.folder / "results.md"
    results.write_text("<!-- compare -->\n<!-- /compare -->\n")
    assert bench("--table", "--docs", str(results)) == 0
    assert bench.calls == []
    assert {path.name for path in (bench.folder / "out").iterdir()} == {"compare.md", "compare.csv", "compare.html"}
    assert "| `a` " in results.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "brats:3"], "task brats: size screen names phantom_2d"),
        (["--bundles", "nothing"], "no bundle or variant nothing: there are"),
        (["--table", "--docs", "NOWHERE.md"], "No such file"),
    ],
)
def test_mistakes_are_said_in_a_sentence(arguments, said, bench, capsys):
    assert bench(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_variant_that_is_not_for_a_task_is_left_out(bench, capsys):
    bench.sizes.write_text("sizes: {screen: {phantom_2d: }}\nvariants: {few: {bundle: supervised, tasks: [lgg]}}\n")
    assert bench("--bundles", "few") == 0
    assert "phantom_2d_few_seed0: left out, few is not for this task" in capsys.readouterr().out


def test_a_variant_may_be_longer_and_as_published():
    sizes = {
        "sizes": {"screen": {"acdc": {"steps": 100, "patch": [8, 8]}}},
        "variants": {
            "long": {"bundle": "supervised", "times": 2.5},
            "old": {"bundle": "mean_teacher", "published": True},
        },
    }
    assert runs.job_of("screen", "acdc:3", "long", 0, sizes).overrides == {"steps": 250, "patch": [8, 8]}
    assert runs.job_of("screen", "acdc:3", "old", 0, sizes).published
    with pytest.raises(ValueError, match="size full: there are screen"):
        runs.job_of("full", "acdc:3", "long", 0, sizes)


def test_a_published_form_trains_with_its_overlay(tmp_path, monkeypatch):
    """The overlay comes before the task's file: the grid and the length are the task's."""
    asked = []
    monkeypatch.setattr(runs, "_command", lambda bundle, run_id, files, *_: asked.append(files) or 1)
    monkeypatch.setattr(runs, "row", lambda job, folder: {})
    job = runs.Job("screen", "acdc", "3", "old", 0, "mean_teacher", published=True)
    runs.run(job, tmp_path, tmp_path / "run", None, False)
    assert asked == [
        ["configs/train.yaml", "configs/published.yaml", "scripts/tasks/acdc.yaml"],
        ["configs/train.yaml", "configs/published.yaml", "scripts/tasks/acdc.yaml", "configs/evaluate.yaml"],
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variants: {}", "needs sizes"),
        ("sizes: {screen: [a]}", "needs sizes"),
        (
            "sizes: {s: {a: {}}}\nvariants: {b: {overrides: {}}}",
            "variant b is .* It needs bundle, and may have overrides, published, times, base",
        ),
        ("sizes: {s: {a: {}}}\nvariants: {b: {bundle: c, basline: d}}", "variant b is"),
    ],
)
def test_sizes_that_cannot_be_read_are_refused(text, said, tmp_path):
    (tmp_path / "sizes.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        runs.read_sizes(tmp_path / "sizes.yaml")


def test_the_sizes_of_this_repository_name_bundles_and_tasks_that_there_are():
    sizes = runs.read_sizes()
    tasks = {task for size in sizes["sizes"].values() for task in size}
    for name, variant in sizes["variants"].items():
        assert (BUNDLES / variant["bundle"] / "configs/train.yaml").is_file(), name
        baseline = variant.get("baseline", "supervised")
        assert baseline in sizes["variants"] or (BUNDLES / baseline).is_dir(), name
        assert set(variant.get("tasks", [])) <= tasks, name
        published = BUNDLES / variant["bundle"] / "configs/published.yaml"
        assert published.is_file() or not variant.get("published"), name
    assert all((ROOT / "custom/tasks" / f"{task}.yaml").is_file() for task in tasks)


def test_each_variant_of_this_repository_overrides_what_its_bundle_has(bundle_cwd):
    """On the first task that it is meant for; its weights leave a term to train at every time of the run."""
    sizes = runs.read_sizes()
    for name, variant in sizes["variants"].items():
        task = variant.get("tasks", ["acdc"])[0]
        job = runs.job_of("full", task, name, 0, sizes)
        bundle_cwd(BUNDLES / job.bundle)
        files = [
            "configs/train.yaml",
            *(["configs/published.yaml"] if job.published else []),
            f"scripts/tasks/{task}.yaml",
        ]
        judge(job.overrides, files)
        config = ConfigParser(ConfigParser.load_config_files(files))
        config.update(dict(job.overrides))
        method = getattr(methods, config["train::method::_target_"].rpartition(".")[2])
        weights = TermWeights(config["weights"], method.terms)
        assert set(weights.at(0.5)) == set(method.terms), name


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("150m", 9000), ("2h", 7200), ("1.5", 90)])
def test_a_budget_is_a_time(text, expected):
    assert seconds(text) == expected


def test_a_budget_that_is_no_time_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.main(["--budget", "long"])
    assert "'long' is not a time: write 90s, 150m or 2h" in capsys.readouterr().err


def test_a_failed_command_shows_the_end_of_its_log(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$@"\npwd\nexit 3\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))

    def start(command, folder, log):
        done = subprocess.run(command, cwd=folder, capture_output=True)
        log.write_bytes(done.stdout)
        return done.returncode, 0

    with pytest.raises(RuntimeError, match=r"training ended with 3; the end of .*log\.txt") as caught:
        runs._command("supervised", "training", ["a.yaml", "b.yaml"], {"steps": 4}, tmp_path, start)
    assert "-m monai.bundle run training --config_file ['a.yaml','b.yaml'] --steps=4" in str(caught.value)
    assert str(caught.value).strip().endswith("bundles/supervised")


def test_revision_marks_files_that_differ_from_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    assert runs.revision() == ""  # no repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("1")
    for arguments in (["init", "-q"], ["add", "file"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], check=True)
    clean = runs.revision()
    assert len(clean) == 10
    (tmp_path / "file").write_text("2")
    assert runs.revision() == f"{clean}+"


# side by side


WRITES = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[4])
from waiting import until
folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(folder / "new").write_text(str(os.getpid()))
(folder / "new").rename(folder / "begun")
names = [f"screen_phantom_2d_supervised_seed{k}" for k in sys.argv[3].split()]
until(lambda: all((folder.parent / name / "begun").exists() for name in names))
if seed == 13: print("a fault"); sys.exit(3)
if seed == 99: until(lambda: False)
(folder / "dice").write_text(str(seed / 10))
"""


@pytest.fixture
def together(tmp_path, monkeypatch):
    """``together(seeds, *arguments)`` is the command whose runs end when all of ``seeds`` have begun."""
    (tmp_path / "sizes.yaml").write_text("sizes: {screen: {phantom_2d: }}\n")
    waits_for, memory = [], []

    def command_of(bundle, run_id, files, overrides, folder, start):
        memory.append((overrides.get("memory_share"), overrides.get("cache_dir")))
        if run_id == "training":
            said = [str(folder), str(overrides["seed"]), " ".join(map(str, waits_for)), str(ROOT / "tests")]
            code, peak_mb = start([sys.executable, "-c", WRITES, *said], folder, folder / "log.txt")
            if code:
                raise RuntimeError(f"training ended with {code}")
            return peak_mb
        return 0

    def row_of(job, folder):
        mean = {
            "dice_mean": {"mean": float((folder / "dice").read_text(encoding="utf-8"))},
            "hd95_mm_mean": {"mean": 1.0},
        }
        return row(job.name, [mean["dice_mean"]["mean"]] * 6, "phantom_2d", "", job.seed)

    def together(seeds, *arguments):
        waits_for[:] = seeds
        where = [f"--{name}={tmp_path / name}" for name in ("output", "rows", "out")]
        return command.main([f"--sizes={tmp_path / 'sizes.yaml'}", *where, "--bundles", "supervised", *arguments])

    monkeypatch.setattr(runs, "_command", command_of)
    monkeypatch.setattr(runs, "row", row_of)
    monkeypatch.setattr(runs, "revision", lambda: "commit")
    together.memory = memory
    together.rows = lambda: {r["seed"]: r for r in read_rows(tmp_path / "rows")}
    together.log = lambda seed: (tmp_path / f"output/screen_phantom_2d_supervised_seed{seed}/log.txt").read_text(
        encoding="utf-8"
    )
    return together


@pytest.mark.skipif(len(cores.mine()) < 2, reason="one core cannot be shared")
def test_runs_go_side_by_side_on_cores_of_their_own(together, capsys):
    assert together([0, 1], "--jobs", "2", "--seeds", "0", "1") == 0
    threads = cores.shares(2)[0].threads
    assert all(
        f"cores (threads: {threads}, 2 runs side by side)" in found["machine"] for found in together.rows().values()
    )
    expected = {f"On {share}.\n" for share in cores.shares(2)}
    assert {together.log(0), together.log(1)} == expected
    out = capsys.readouterr().out
    assert all(f"_seed{seed} on core" in out for seed in (0, 1))


@pytest.mark.skipif(len(cores.mine()) < 2, reason="one core cannot be shared")
def test_runs_side_by_side_share_the_free_memory_and_the_preprocessed_scans(together, tmp_path):
    assert together([0, 1], "--jobs", "2", "--seeds", "0", "1") == 0
    assert set(together.memory) == {(0.3, tmp_path / "output/cache")}
    assert together([2], "--jobs", "1", "--seeds", "2") == 0
    assert together.memory[-1] == (None, None)


def test_a_run_that_fails_beside_others_loses_nothing_of_them(together, capsys):
    assert together([0, 13], "--jobs", "2", "--seeds", "13", "0", "1") == 1
    assert sorted(together.rows()) == [0, 1]
    assert (
        "not done: screen_phantom_2d_supervised_seed13: RuntimeError: training ended with 3" in capsys.readouterr().err
    )


def test_rows_side_by_side_are_those_of_one_after_the_other(together, tmp_path):
    found = []
    for jobs in ("1", "3"):
        assert (
            together(
                [],
                "--jobs",
                jobs,
                "--seeds",
                "0",
                "1",
                "2",
                f"--rows={tmp_path / jobs}",
                f"--output={tmp_path / jobs}o",
            )
            == 0
        )
        found.append([{k: v for k, v in one.items() if k != "machine"} for one in read_rows(tmp_path / jobs)])
    assert found[0] == found[1]
    assert len(found[0]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_runs_and_keeps_what_is_done(together, tmp_path, capsys, number):
    """Seed 0 is done when the signal comes; 99 runs, and 1 has not begun."""
    begun = tmp_path / "output/screen_phantom_2d_supervised_seed99/begun"

    def send():
        until(begun.exists)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert together([], "--jobs", "1", "--seeds", "0", "99", "1") == 128 + number
    sender.join()
    assert list(together.rows()) == [0]
    assert capsys.readouterr().err == "Stopped; the same command with --continue goes on.\n"
    assert not Path(f"/proc/{begun.read_text(encoding='utf-8')}").exists()
    assert not begun.parent.with_name("screen_phantom_2d_supervised_seed1").exists()


@pytest.mark.parametrize(("there", "jobs", "expected"), [(2, 9, 1), (4, 9, 1), (8, 9, 2), (64, 3, 3), (64, 0, 1)])
def test_how_many_runs_at_once_is_by_the_cores(monkeypatch, there, jobs, expected):
    monkeypatch.setattr(cores, "count", lambda: there)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.runs_at_once(jobs) == expected


def test_on_a_gpu_one_run_at_once(monkeypatch):
    monkeypatch.setattr(cores, "count", lambda: 64)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert command.runs_at_once(9) == 1


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_what_is_no_number_of_runs_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        command.main([f"--jobs={text}"])
    assert f"'{text}' is not a number of runs: write 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_real_runs_side_by_side_have_the_results_of_one_after_the_other(tmp_path, phantoms, monkeypatch):
    """The number of threads is the same: with another one sums are rounded differently."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "sizes.yaml").write_text(f"sizes:\n  screen:\n    phantom_2d: {{{TINY}}}\n")
    found = []
    for jobs in ("1", "2"):
        where = [f"--{name}={tmp_path / jobs / name}" for name in ("output", "rows", "out")]
        assert command.main([f"--sizes={tmp_path / 'sizes.yaml'}", f"--lists={phantoms}", *where, "--bundles", "supervised",
                             "mean_teacher", "--jobs", jobs]) == 0  # fmt: skip
        measured = ("machine", "seconds", "validation_seconds", "peak_mb", "date", "commit")
        found.append(
            [{k: v for k, v in one.items() if k not in measured} for one in read_rows(tmp_path / jobs / "rows")]
        )
    assert found[0] == found[1]
    assert len(found[0]) == 2
