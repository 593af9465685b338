"""The server in its own environment, driven as an annotator's program does: from the first label to versions of weights."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests
from annotation_server import Server

CLIENT = """
import json, sys
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

url, name, labels = sys.argv[1:]
client, results = MONAILabelClient(url), {}
results["info"] = client.info()
try:
    client.infer(name, "p000", {})
except MONAILabelClientException as error:
    results["without weights"] = error.msg
sample = results["sample"] = client.next_sample("informative", {})
results["saved"] = client.save_label(sample["id"], f"{labels}/{sample['id']}.nii.gz")
task = client.train_start(name, {"max_epochs": 1})["id"]
print(task, flush=True)
input()  # until it is trained
results["training"] = client.train_status()
results["next"] = client.next_sample("informative", {})
file, results["result"] = client.infer(name, "p001", {"result_extension": ".nrrd", "result_dtype": "uint8"})
results["stats"] = client.info()["train_stats"][name]
print(json.dumps({**results, "file": str(file)}))
"""


def test_the_client_goes_from_no_weights_to_a_segmentation_by_them(untrained: Server) -> None:
    with subprocess.Popen(
        [untrained.python, "-c", CLIENT, untrained.url, untrained.name, str(untrained.labels)], text=True,
        env={**os.environ, "PYTHONPATH": ""}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as client:  # fmt: skip
        assert client.stdout is not None
        task = client.stdout.readline().strip()
        if task:
            untrained.trained(task)
        said, errors = client.communicate("\n", timeout=300)
    assert client.returncode == 0, errors[-3000:] + untrained.log()
    results = json.loads(said.splitlines()[-1])
    assert set(results["info"]["strategies"]) == {"informative", "spread", "random", "first"}
    assert "Status: 400" in results["without weights"]
    assert "no weights yet: label scans, press Train" in results["without weights"]
    assert results["sample"]["id"] != results["next"]["id"]
    result = json.loads(results["training"]["details"][-1])
    assert results["training"]["status"] == "DONE"
    assert result["replaced"]
    assert result["version"] == "0001"
    assert "there was nothing to compare them with" in result["message"]
    assert results["result"]["version"] == "0001"
    assert results["result"]["weights"] == untrained.sha256()[:12]
    assert results["result"]["label_names"] == {"right ventricle": 1, "myocardium": 2, "left ventricle": 3}
    assert results["stats"]["versions"] == ["0001"]
    Path(results["file"]).unlink()


def test_a_result_lies_on_the_grid_of_its_image_in_whole_numbers(server: Server, tmp_path: Path) -> None:
    reply = server.infer("p001", output="image")
    assert reply.status_code == 200
    (tmp_path / "p001.nii.gz").write_bytes(reply.content)
    found, image, label = (nibabel.load(folder / "p001.nii.gz") for folder in (tmp_path, server.studies, server.labels))
    assert found.shape == image.shape
    assert found.get_data_dtype() == np.uint8
    np.testing.assert_allclose(found.affine, image.affine, rtol=0, atol=1e-6)
    heart, wanted = (np.asarray(x.dataobj) > 0 for x in (found, label))
    assert 2 * (heart & wanted).sum() / (heart.sum() + wanted.sum()) > 0.6  # the right way round
    assert server.infer("p001").json()["model"] == server.name


@pytest.mark.fault("19", "a training that makes the weights worse; a second one while it runs")
def test_a_worse_candidate_does_not_serve_and_the_unlabelled_pool_trained_it(server: Server) -> None:
    before = server.sha256()
    for image in ("p000", "p001", "p002"):
        assert server.save_label(image).status_code == 200
    task = server.train(max_epochs=1, pretrained=False).json()["id"]
    server.training_under_way()
    assert server.train(max_epochs=1).status_code == 429
    status = server.trained(task)
    result = json.loads(status["details"][-1])
    assert status["status"] == "DONE", status
    assert not result["replaced"]
    assert result["dice"]["candidate"] < result["dice"]["served"]
    figures = f"{result['dice']['candidate']:.3f} against {result['dice']['served']:.3f}"
    assert figures in result["message"]
    assert result["scans"] == {"labelled": 2, "validation": 1, "unlabelled": 7}
    entries = json.loads((server.bundle / "training/list.json").read_text())
    assert {Path(entry["image"]).name for entry in entries["unlabelled"]} == {f"p00{i}.nii.gz" for i in range(3, 10)}
    assert not any("label" in entry for entry in entries["unlabelled"])
    columns, row = (server.bundle / "training/candidate/metrics.csv").read_text().splitlines()
    assert float(dict(zip(columns.split(","), row.split(","), strict=True))["term/consistency"]) > 0
    assert server.sha256() == before
    assert server.stats()["best_metric"] == pytest.approx(result["dice"]["served"])
    assert server.infer("p003").json()["weights"] == before[:12]


@pytest.mark.fault("19", "a cancelled training")
def test_the_server_answers_while_it_trains_and_a_cancelled_training_leaves_the_model_that_served(
    server: Server,
) -> None:
    before = server.sha256()
    for image in ("p000", "p001"):
        server.save_label(image)
    task = server.train(max_epochs=500).json()["id"]
    stats = server.training_under_way()
    assert stats["total_epochs"] == 500
    assert server.infer("p005").status_code == 200
    assert server.status()["status"] == "RUNNING"
    assert requests.delete(f"{server.url}/train/", timeout=30).status_code == 200
    assert server.trained(task)["status"] == "STOPPED"
    assert server.training_has_ended()["last"]["status"] == "STOPPED"
    assert server.sha256() == before
    assert server.infer("p004").json()["weights"] == before[:12]


@pytest.mark.fault("19", "the server killed in a training")
def test_a_killed_server_takes_its_training_along_and_serves_the_same_weights_again(untrained: Server) -> None:
    for image in ("p000", "p001"):
        assert untrained.save_label(image).status_code == 200
    if untrained.stats()["served"] is None:
        untrained.trained(untrained.train(max_epochs=1).json()["id"])
    before = untrained.sha256()
    untrained.train(max_epochs=5000)
    untrained.training_under_way(epochs=1)
    process = json.loads((untrained.bundle / "training/last.json").read_text())["process"]
    untrained.stop(signal.SIGKILL)
    assert ends(int(process[0])), "the training goes on without its server"
    assert untrained.launch().ready().sha256() == before
    assert untrained.stats()["last"]["status"] == "STOPPED"
    assert untrained.infer("p002").json()["weights"] == before[:12]
    restored = subprocess.run(
        [untrained.python, "-m", "annotate.versions", untrained.bundle, "--list"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert restored.stdout.startswith("* 0001")


def ends(process: int, seconds: float = 30) -> bool:
    """Whether a process, not necessarily a child of this one, ends within that time."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
