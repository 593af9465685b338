"""docs/scale.md: what a step sends is counted, and its files are what their programs read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from monai.bundle import ConfigParser
from waiting import until

PAGE = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
ROWS = [
    (name, *numbers)
    for names, *numbers in re.findall(r"^\| (`[^|]*) \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
    for name in re.findall(r"`(\w+)`", names)
]


def block(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)[0]


def test_every_bundle_is_in_the_table_once():
    assert sorted(name for name, *_ in ROWS) == sorted(path.name for path in (ROOT / "bundles").iterdir())


@pytest.mark.parametrize(("name", "parameters", "gradients_mb", "sent_mb"), ROWS, ids=[row[0] for row in ROWS])
def test_traffic_is_that_of_the_parameters_that_a_bundle_trains(bundle_cwd, name, parameters, gradients_mb, sent_mb):
    """DDP sends all that require a gradient, as float32."""
    bundle_cwd(ROOT / "bundles" / name)
    config = ConfigParser()
    config.read_config("configs/train.yaml")
    config["device"] = "cpu"
    trained = [p for p in config.get_parsed_content("train::method").parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    size = sum(p.numel() * p.element_size() for p in trained)
    assert f"{count:,}" == parameters
    assert f"{size / 1e6:.1f}" == gradients_mb
    assert f"{size / 1e6 * 2 * 7 / 8:.1f}" == sent_mb


def test_the_sbatch_file_asks_for_a_signal_and_goes_on_from_the_last_epoch():
    for needed in ("--requeue", "--signal=B:USR1@", "--resume true"):
        assert needed in block("bash")


def stand_ins(folder: Path, requeue: str) -> dict[str, str]:
    """``srun`` ends with the number that is written to the pipe ``ends``; what the programs are called with is kept."""
    os.mkfifo(folder / "ends")
    programs = {
        "srun": 'printf "%s\\n" "$@" > "$STAND_INS/training"; read -r status < "$STAND_INS/ends"; exit "$status"',
        "scontrol": f'[ "$1" = show ] && printf "a\\nb\\n" && exit; echo "$@" > "$STAND_INS/asked"; {requeue}',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    slurm = {"JOB_ID": "42", "NNODES": "2", "JOB_NODELIST": "[a-b]", "CPUS_PER_TASK": "32"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        **{f"SLURM_{name}": value for name, value in slurm.items()},
        "PATH": path,
        "STAND_INS": str(folder),
    }


@pytest.mark.parametrize(
    ("ends", "signalled", "requeue", "code"),
    [
        pytest.param(0, False, "", 0, id="trained"),
        pytest.param(1, False, "", 1, id="failed"),
        pytest.param(143, True, "", 143, id="requeued, and its steps are ended"),
        pytest.param(0, True, "exit 1", 0, id="not requeued, and trained before the time was over"),
        pytest.param(1, True, "exit 1", 1, id="not requeued, and failed"),
    ],
)
def test_the_sbatch_file_ends_as_the_training_does(tmp_path, ends, signalled, requeue, code):
    environment = stand_ins(tmp_path, requeue)
    with subprocess.Popen(["bash", "-c", block("bash")], cwd=ROOT, env=environment, stderr=subprocess.PIPE) as job:
        with (tmp_path / "ends").open("w") as pipe:  # opening it waits for srun
            if signalled:
                until(lambda: sleeps(job.pid), job)
                job.send_signal(signal.SIGUSR1)
                until((tmp_path / "asked").exists, job)
                # srun trains on, and is waited for
                until(lambda: sleeps(job.pid), job)
            pipe.write(f"{ends}\n")
        assert job.wait(60) == code
        assert job.stderr.read() == b""
    assert (tmp_path / "asked").exists() == signalled
    if signalled:
        assert (tmp_path / "asked").read_text() == "requeue 42\n"
    started = (tmp_path / "training").read_text().splitlines()
    assert {"torchrun", "a:29500", "--cpus-per-task=32"} <= set(started)


def sleeps(process: int) -> bool:
    """Whether it waits for something."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_the_job_of_kubernetes_is_yaml_with_one_container_called_pytorch():
    job = yaml.safe_load(block("yaml"))
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert (job["kind"], container["name"]) == ("PyTorchJob", "pytorch")
    assert (
        job["spec"]["elasticPolicy"]["minReplicas"] == job["spec"]["elasticPolicy"]["maxReplicas"] == worker["replicas"]
    )
    assert container["args"][-2:] == ["--resume", "true"]


def test_every_command_for_several_machines_has_stores_of_its_own():
    assert PAGE.count("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == 3
    for config in set(re.findall(r"'(configs/[\w.]+)'", PAGE)):
        assert (ROOT / "bundles/mean_teacher" / config).is_file()
