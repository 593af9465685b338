"""docs/scale.md: what a step sends is counted, and its files are what their programs read."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from conftest import ROOT
from monai.bundle import ConfigParser

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


def test_the_sbatch_file_is_a_script_and_comes_back():
    script = block("bash")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""
    for needed in ("--requeue", "--signal=B:USR1@", "scontrol requeue", "--resume true", "&\nwait\n"):
        assert needed in script


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
