"""Attacks by plain HTTP on a server that runs: each is refused in words, changes nothing, and the next request is served.

All except a few go, with the right token, to ``guarded``: what they try must be refused to whoever may log in. Whoever
reached the port of MONAI Label as it comes owned the machine.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
from annotation_fixtures import MODEL
from annotation_server import ROOT, Server
from saying import says
from waiting import until

TOKEN = "only-annotators-know-this"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
EXPRESSION = "$open('MARKER','w').write('owned')"
CHANGES = ("work/logs", "work.log", "studies/datastore_v2.json", "studies/.lock")  # with every request


class Guarded:
    """A server that asks for a token, and what is on its disk."""

    def __init__(self, server: Server, tmp: Path) -> None:
        self.server, self.folder, self.tmp = server, server.studies.parent, tmp

    def __call__(self, method: str, path: str, **how: Any) -> requests.Response:
        address = self.server.url + path.replace("NAME", self.server.name)
        return requests.request(method, address, **{"headers": BEARER, "timeout": 120, **how})

    def disk(self) -> dict[str, str]:
        """SHA-256 of every file beside, in and below studies and work folder."""
        files = [path for path in sorted(self.folder.parent.rglob(f"{self.folder.name}/**/*")) if path.is_file()]
        named = {str(path.relative_to(self.folder)): path for path in files}
        return {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in named.items()
            if not name.startswith(CHANGES) and "__pycache__" not in name
        }


@pytest.fixture(scope="module")
def guarded(launched: Callable[..., Server]) -> Guarded:
    server = launched("guarded", MODEL, MONAI_LABEL_TOKEN=TOKEN).ready()
    return Guarded(server, server.work / "tmp")


def label_of(server: Server, image: str) -> bytes:
    return (server.labels / f"{image}.nii.gz").read_bytes()


def nifti(voxels: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return gzip.compress(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine).to_bytes())


def params(**given: Any) -> dict[str, dict[str, str]]:
    return {"data": {"params": json.dumps(given)}}


def sent(name: str, content: bytes, field: str = "label") -> dict[str, Any]:
    return {"files": {field: (name, io.BytesIO(content))}}


ANY = nifti(np.zeros((4, 4, 4), np.uint8))
PATH = r"expected a plain name"
KEPT = r"no scan is overwritten"
TRAIN, INFER, SAVE = "/train/NAME", "/infer/NAME?image=p000", "/datastore/label?image=p000"
NO_ROUTE = r"is not something that this server does"

ATTACKS = [
    # a value that is executed, and all other ways to it
    ("an expression as number of epochs", "POST", TRAIN, {"json": {"max_epochs": EXPRESSION}}, 400, "max_epochs is"),
    ("a reference as number of epochs", "POST", TRAIN, {"json": {"max_epochs": "@steps"}}, 400, "max_epochs is"),
    ("an expression as truth", "POST", TRAIN, {"json": {"pretrained": EXPRESSION}}, 400, "without quotes"),
    ("an expression as device", "POST", TRAIN, {"json": {"device": EXPRESSION}}, 400, "'device' is not known"),
    ("an expression as run id", "POST", TRAIN, {"json": {"run_id": EXPRESSION}}, 400, "'run_id' is not known"),
    ("an expression as a new id", "POST", TRAIN, {"json": {EXPRESSION: 1}}, 400, "is not known"),
    ("an expression as client", "POST", TRAIN, {"json": {"client_id": EXPRESSION}}, 400, PATH),
    ("another Python path", "POST", TRAIN, {"json": {"bundle_path": "/tmp"}}, 400, "'bundle_path' is not known"),
    ("a tracking server", "POST", TRAIN, {"json": {"tracking_uri": "http://x"}}, 400, "'tracking_uri' is not known"),
    ("the word false", "POST", TRAIN, {"json": {"pretrained": "false"}}, 400, "without quotes"),
    ("epochs for years", "POST", TRAIN, {"json": {"max_epochs": 10**9}}, 400, "from 1 to 10000"),
    ("a training within the server", "POST", "/train/NAME?run_sync=true", {}, 400, "'run_sync' is not known"),
    ("trainings in a queue", "POST", "/train/NAME?enqueue=true", {}, 400, "'enqueue' is not known"),
    ("a training of all models", "POST", "/train/", {"json": {"NAME": {"max_epochs": EXPRESSION}}}, 404, NO_ROUTE),
    ("a training of another model", "POST", "/train/..%2Fx", {"json": {}}, 404, NO_ROUTE),
    ("another model in the body", "POST", TRAIN, {"json": {"model": "x"}}, 400, "'model' is not known"),
    # weights
    ("weights beside the model", "POST", INFER, params(model_filename="../../x.pt"), 400, "is not known"),
    ("weights for a training", "POST", TRAIN, {"json": {"model_filename": "../../x.pt"}}, 400, "is not known"),
    ("replacing the weights", "PUT", "/model/NAME", sent("model.pt", b"weights", "file"), 404, NO_ROUTE),
    ("removing the weights", "DELETE", "/model/NAME", {}, 404, NO_ROUTE),
    ("fetching the weights", "GET", "/model/NAME", {}, 404, NO_ROUTE),
    # images that are not the study's
    ("an absolute path as image", "POST", "/infer/NAME?image=/etc/passwd", {}, 400, PATH),
    ("a path upwards as image", "POST", "/infer/NAME?image=../work/main.py", {}, 400, PATH),
    ("an image among the parameters", "POST", INFER, params(image="/etc/passwd"), 400, "'image' is not known"),
    ("an image by session", "POST", "/infer/NAME?image=&session_id=x", {}, 400, "'session_id' is not known"),
    ("no such image", "POST", "/infer/NAME?image=p0000", {}, 404, r"'p0000' \(did you mean 'p000'"),
    ("a file of the working folder", "POST", "/infer/NAME?image=main.py", {}, 404, "there is no image 'main.py'"),
    ("no image", "POST", "/infer/NAME", {}, 400, PATH),
    ("an image beside the study", "POST", INFER, sent("x.nii.gz", ANY, "file"), 400, "'file' is not known"),
    ("scribbles", "POST", INFER, sent("x.bin", b"x"), 400, "'label' is not known"),
    ("downloading another file", "GET", "/datastore/image?image=../../../etc/passwd", {}, 400, PATH),
    ("downloading by tag", "GET", "/datastore/label?label=p000&tag=../..", {}, 400, "expected one of final, original"),
    ("the hash of a file", "GET", "/datastore/image?image=p000&check_sum=MD5:x", {}, 400, "'check_sum' is not known"),
    # where a result or a label is written
    ("an inference that saves", "POST", INFER, params(save_label=True, label_tag="../x"), 400, "'save_label' is not"),
    ("a suffix that leads away", "POST", INFER, params(result_extension="/../x.nii.gz"), 400, "expected one of"),
    ("a program as DICOM", "POST", "/infer/NAME?image=p000&output=dicom_seg", {}, 400, "output is 'dicom_seg'"),
    ("a tag that leads away", "PUT", "/datastore/label?image=p000&tag=../../../x", sent("x.nii.gz", ANY), 400, "tag is"),
    ("a tag that makes a folder", "PUT", "/datastore/label?image=p000&tag=mine", sent("x.nii.gz", ANY), 400, "expected 'final'"),
    ("a label for a path", "PUT", "/datastore/label?image=../x", sent("x.nii.gz", ANY), 400, PATH),
    ("a program as label", "PUT", SAVE, sent("x.py", b"import os"), 400, "is the file 'x.py'"),
    ("a program behind a suffix", "PUT", SAVE, sent("x.nii.gz.py", b"x"), 400, "is the file 'x.nii.gz.py'"),
    ("an image for a path", "PUT", "/datastore/image?image=../../x", sent("x.nii.gz", ANY, "file"), 400, PATH),
    ("an image whose file is a path", "PUT", "/datastore/image", sent("../../p000.nii.gz", ANY, "file"), 409, KEPT),
    ("another scan under a name", "PUT", "/datastore/image?image=p000", sent("x.nii.gz", ANY, "file"), 409, KEPT),
    ("the old address of an upload", "PUT", "/datastore/?image=p000", sent("x.nii.gz", ANY, "file"), 409, KEPT),
    # files that are not scans
    ("a program as image", "PUT", "/datastore/image?image=new", sent("x.svs", b"x", "file"), 400, "is the file 'x.svs'"),
    ("noise as image", "PUT", "/datastore/image?image=new", sent("x.nii.gz", b"noise" * 99, "file"), 400, "is not compressed"),
    ("half an image", "PUT", "/datastore/image?image=new", sent("x.nii.gz", ANY[:40], "file"), 400, "is truncated"),
    ("a picture as volume", "PUT", "/datastore/image?image=new", sent("x.nii.gz", nifti(np.zeros((8, 8), np.uint8)), "file"), 400,
     "new.nii.gz is a picture of 8x8, the task wants volumes"),
    ("no file", "PUT", "/datastore/image?image=new", {}, 400, "form: no file, expected a file"),
    # what is gone
    ("removing a scan", "DELETE", "/datastore/image?id=p000", {}, 404, NO_ROUTE),
    ("removing a label", "DELETE", "/datastore/label?id=p000&tag=final", {}, 404, NO_ROUTE),
    ("removing by the old address", "DELETE", "/datastore/?id=p000", {}, 404, NO_ROUTE),
    ("forging scores", "PUT", "/datastore/image/info?image=p000", {"data": {"info": "{}"}}, 404, NO_ROUTE),
    ("forging a label's name", "PUT", "/datastore/label/info?label=p000&tag=final", {"data": {"info": "{}"}}, 404, NO_ROUTE),
    ("forging by the old address", "PUT", "/datastore/updatelabelinfo?label=p000&tag=final", {}, 404, NO_ROUTE),
    ("a copy of the study", "GET", "/datastore/dataset", {}, 404, NO_ROUTE),
    ("an archive as session", "PUT", "/session/?uncompress=true", sent("x.zip", b"x", "files"), 404, NO_ROUTE),
    ("inference of all scans", "POST", "/batch/infer/NAME", {"json": {"label_tag": "../x"}}, 404, NO_ROUTE),
    ("pathology", "POST", "/infer/wsi_v2/NAME?image=p000", {}, 404, NO_ROUTE),
    ("scoring in a second process", "POST", "/scoring/dice", {"json": {}}, 404, NO_ROUTE),
    ("fetching from elsewhere", "GET", "/proxy/dicom/wado/x", {}, 404, NO_ROUTE),
    ("the log", "GET", "/logs/", {}, 404, NO_ROUTE),
    ("starting nvidia-smi", "GET", "/logs/gpu", {}, 404, NO_ROUTE),
    ("throwing the app away", "POST", "/reload", {}, 404, NO_ROUTE),
    ("a file of the viewer", "GET", "/ohif/..%2f..%2fapp.py", {}, 404, NO_ROUTE),
    ("a file of the package", "GET", "/static/../app.py", {}, 404, NO_ROUTE),
    ("a password", "POST", "/auth/token", {"data": {"username": "a", "password": "b"}}, 404, NO_ROUTE),
    ("the list of requests", "GET", "/openapi.json", {}, 404, NO_ROUTE),
    # what is not a request at all
    ("no JSON", "POST", TRAIN, {"data": "{max_epochs: 1"}, 400, "body is not JSON"),
    ("a list", "POST", TRAIN, {"json": [1]}, 400, r"found \[1\], expected a JSON object"),
    ("brackets without end", "POST", TRAIN, {"data": "[" * 60_000}, 400, "body is not JSON"),
    ("parameters without end", "POST", TRAIN, {"data": " " * 70_000}, 413, "expected a few"),
    ("a field without end", "POST", INFER, {**params(client_id="x" * 70_000), "files": {"x": None}}, 400, ""),
    ("a form that is none", "PUT", SAVE,
     {"data": b"x", "headers": {**BEARER, "Content-Type": "multipart/form-data; boundary=y"}}, 400, ""),
    ("two files", "PUT", SAVE, {"files": [("label", ANY), ("label", ANY)]}, 400, "Too many files"),
    ("a body without length", "POST", TRAIN, {"data": iter([b"{}"])}, 411, "found a body without length"),
    ("an unknown strategy", "POST", "/activelearning/best", {"json": {}}, 404, "there is no strategy 'best'"),
    ("another strategy", "POST", "/activelearning/first", {"json": {"strategy": "x"}}, 400, "'strategy' is not known"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "how", "status", "sentence"),
    [pytest.param(*attack[1:], id=attack[0], marks=pytest.mark.fault("19", attack[0])) for attack in ATTACKS],
)
def test_an_attack_is_refused_in_words_changes_nothing_and_the_next_request_is_served(
    guarded: Guarded, method: str, path: str, how: dict[str, Any], status: int, sentence: str
) -> None:
    before = guarded.disk()
    answer = guarded(method, path, **how)
    assert answer.status_code == status, answer.text
    reply = answer.json()
    assert list(reply) == ["detail"]
    assert "\n" not in reply["detail"]
    assert len(reply["detail"]) < 600
    assert re.search(sentence, reply["detail"]), reply
    assert guarded.disk() == before
    assert not any(name.endswith("MARKER") for name in before)
    good = guarded("POST", "/activelearning/first", json={"client_id": "me"})
    assert good.status_code == 200, good.text
    assert good.json()["id"].startswith("p0")
    assert guarded("GET", "/train/").status_code == 404  # none was ever started


@pytest.mark.fault("19", "weights of a right request")
def test_weights_are_only_those_that_serve(guarded: Guarded) -> None:
    answer = guarded("POST", "/infer/NAME?image=p000&output=json", **params(result_dtype="uint8", client_id="user-xyz"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["weights"] == guarded.server.sha256()[:12]


# ---- labels and images are judged by what is in them -----------------------------------------------------------------
def spoilt(label: bytes, change: Callable[[np.ndarray], np.ndarray], shift_mm: float = 0) -> bytes:
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(label))
    affine = image.affine.copy()
    affine[0, 3] += shift_mm
    return nifti(change(np.asarray(image.dataobj)), affine)


def as_it_is(voxels: np.ndarray) -> np.ndarray:
    return voxels


def with_class(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[0, 0, 0] = value
        return voxels

    return change


@pytest.mark.parametrize(
    ("change", "shift_mm", "sentence"),
    [
        pytest.param(with_class(7), 0, r"has the values \{0, 1, 2, 3, 7\}, the task names 0..3. Remap 7", id="no class"),
        pytest.param(with_class(1.5), 0, r"has the values \{0, 1, 1.5, 2, 3\}, the task names 0..3. Remap 1.5", id="half"),
        pytest.param(with_class(np.nan), 0, r"has 1 non-finite voxel of", id="no number"),
        pytest.param(as_it_is, 5, r"label p001.nii.gz is not on the grid of p001.nii.gz: origin", id="moved by 5 mm"),
        pytest.param(lambda voxels: voxels[1:], 0, r"is not on the grid of p001.nii.gz: shape", id="a row too few"),
        pytest.param(lambda voxels: voxels[..., None].repeat(2, -1), 0, r"has 2 channels, a label has 1", id="two channels"),
    ],
)  # fmt: skip
@pytest.mark.fault("19", "a label that a training would refuse, with the sentence of the cohort check")
def test_a_label_is_judged_when_it_is_saved(
    guarded: Guarded, change: Callable[[np.ndarray], np.ndarray], shift_mm: float, sentence: str
) -> None:
    before = guarded.disk()
    bad = sent("x.nii.gz", spoilt(label_of(guarded.server, "p001"), change, shift_mm))
    answer = guarded("PUT", "/datastore/label?image=p001", **bad)
    assert answer.status_code == 400, answer.text
    assert re.search(sentence, answer.json()["detail"])
    assert guarded.disk() == before
    assert guarded("GET", "/datastore/label?label=p001&tag=final").status_code == 404


@pytest.mark.fault("19", "segments in another order than the classes")
def test_segments_that_would_become_other_classes_are_refused(guarded: Guarded) -> None:
    right = ["right ventricle", "myocardium", "left ventricle"]
    label = label_of(guarded.server, "p001")

    def save(names: list[str]) -> requests.Response:
        info = [{"name": name, "idx": number} for number, name in enumerate(names, 1)]
        query = params(label_info=info, client_id="user-xyz")
        return guarded("PUT", "/datastore/label?image=p001&tag=", **query, **sent("tmpx.nii.gz", label))

    answer = save(right[1:])
    assert answer.status_code == 400
    assert "1 right ventricle, 2 myocardium, 3 left ventricle (order the segments so" in answer.json()["detail"]
    answer = save([*right[:2], "Segment_3"])
    assert answer.status_code == 400
    assert (
        "voxels of 1 segment whose name is not a class: 'Segment_3' (number 3); expected right"
        in answer.json()["detail"]
    )
    assert save(right).json() == {"image": "p001", "label": "p001"}
    assert guarded("GET", "/datastore/label?label=p001&tag=final").content == label
    assert (
        guarded("GET", "/datastore/label/info?label=p001&tag=final").json()["label_info"][0]["name"]
        == "right ventricle"
    )


@pytest.mark.fault("19", "a label over a link of the study")
def test_a_label_goes_into_the_study_and_not_to_where_a_link_leads(guarded: Guarded) -> None:
    precious = guarded.folder / "precious.nii.gz"
    precious.write_bytes(b"not to be touched")
    place = guarded.server.studies / "labels/final/p002.nii.gz"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(precious)
    label = label_of(guarded.server, "p002")
    assert guarded("PUT", "/datastore/label?image=p002", **sent("x.nii.gz", label)).status_code == 200
    assert precious.read_bytes() == b"not to be touched"
    assert place.read_bytes() == label
    assert not place.is_symlink()


@pytest.mark.fault("19", "an inference of a scan that was damaged on the disk")
def test_a_damaged_scan_is_named(guarded: Guarded) -> None:
    path = guarded.server.studies / "p009.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    answer = guarded("POST", "/infer/NAME?image=p009&output=json")
    path.write_bytes(whole)
    assert answer.status_code == 400, answer.text
    assert "p009.nii.gz" in answer.json()["detail"]
    assert guarded("POST", "/infer/NAME?image=p009&output=json").status_code == 200


@pytest.mark.fault("5o", "sent to an annotator, or asked for by one")
def test_a_scan_that_the_bundles_inference_refuses_is_neither_segmented_nor_taken(guarded: Guarded) -> None:
    path = guarded.server.studies / "p009.nii.gz"
    whole = path.read_bytes()
    thick = nifti(np.random.default_rng(0).normal(size=(8, 32, 32)).astype(np.float32), np.diag([8.0, 1, 1, 1]))
    path.write_bytes(thick)
    answer = guarded("POST", "/infer/NAME?image=p009&output=json")
    path.write_bytes(whole)
    uploaded = guarded("PUT", "/datastore/?image=thick", **sent("x.nii.gz", thick, "file"))
    for reply, name in ((answer, "p009"), (uploaded, "thick")):
        assert reply.status_code == 400, reply.text
        assert reply.json()["detail"].startswith(
            f"{name}.nii.gz is thick along left-right (8 mm), and the network sees"
        )
    assert guarded("POST", "/infer/NAME?image=p009&output=json").status_code == 200


def test_a_good_image_is_added_and_is_not_overwritten(guarded: Guarded) -> None:
    image = (guarded.server.studies / "p003.nii.gz").read_bytes()
    assert guarded(
        "PUT", "/datastore/?image=added", **params(client_id=None), **sent("x.nii.gz", image, "file")
    ).json() == {"image": "added"}
    assert guarded("GET", "/datastore/image?image=added").content == image
    assert "added" in guarded("GET", "/datastore/?output=all").json()["objects"]
    again = guarded("PUT", "/datastore/?image=added", **sent("x.nii.gz", ANY, "file"))
    assert again.status_code == 409
    assert (guarded.server.studies / "added.nii.gz").read_bytes() == image


# ---- who may ask -----------------------------------------------------------------------------------------------------
WRONG = [None, "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", b"Bearer \xff\xfe"]
ROUTES = [
    ("GET", "/"),
    ("GET", "/info/"),
    ("OPTIONS", "/info/"),
    ("PUT", "/model/NAME"),
    ("GET", "/datastore/image?image=p000"),
]


@pytest.mark.parametrize("bearer", WRONG)
@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.fault("19", "no token, or a wrong one")
def test_without_the_token_nothing_is_answered(
    guarded: Guarded, method: str, path: str, bearer: str | bytes | None
) -> None:
    answer = guarded(method, path, headers={"Authorization": bearer} if bearer else {})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json()["detail"] == "no valid token. Send Authorization: Bearer and the value of MONAI_LABEL_TOKEN"


def test_the_client_is_let_in_by_update_auth(guarded: Guarded) -> None:
    script = """
import sys
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
client = MONAILabelClient(sys.argv[1])
try:
    client.info()
except MONAILabelClientException as error:
    print(error.status_code)
client.update_auth({"token_type": "Bearer", "access_token": sys.argv[2]})
print(client.info()["datastore"]["total"] >= 10, "id" in client.next_sample("first", {}))
"""
    arguments = [guarded.server.python, "-c", script, guarded.server.url, TOKEN]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["401", "True", "True"]


@pytest.mark.parametrize("token", [True, False], ids=["with the token", "without one"])
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://localhost:{port}", "http://127.0.0.1:1"],
)
@pytest.mark.fault("19", "a page of the web")
def test_another_origin_is_refused(guarded: Guarded, server: Server, origin: str, token: bool) -> None:
    asked = guarded.server if token else server
    headers = {"Origin": origin.format(port=asked.port), **(BEARER if token else {})}
    for method in ("GET", "OPTIONS"):
        answer = requests.request(method, f"{asked.url}/info/", headers=headers, timeout=60)
        assert answer.status_code == 403
        assert "may not use this server" in answer.json()["detail"]
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "0.0.0.0:{port}",
        "[",
        "",
    ],
)
@pytest.mark.fault("19", "a name of the web that was made to point to this machine")
def test_without_a_token_the_host_must_be_this_machine(server: Server, host: str) -> None:
    answer = requests.get(f"{server.url}/info/", headers={"Host": host.format(port=server.port)}, timeout=60)
    assert answer.status_code == 403, answer.text
    detail = answer.json()["detail"]
    says(detail, "MONAI_LABEL_TOKEN", "only this machine", "http://127.0.0.1", "Set it", "a tunnel")
    for name in ("127.0.0.1", "localhost"):
        assert requests.get(f"http://{name}:{server.port}/info/", timeout=60).status_code == 200


@pytest.mark.fault("19", "an address that others reach, and no token")
def test_without_a_token_both_ends_must_be_this_machine(annotate_python: Path) -> None:
    """What a server on 0.0.0.0 would see, by the addresses of the two ends of a connection."""
    script = """
import asyncio
from annotate.guard import Guard

async def app(scope, receive, send):
    print("let_in", end=";")

async def send(message):
    if message["type"] == "http.response.start":
        print(message["status"], end=";")

HERE, HERE6, LAN = ("127.0.0.1", 1), ("::1", 1), ("192.168.0.7", 1)
others = [(LAN, HERE), (HERE, LAN), (LAN, LAN), (None, HERE), (HERE, None), (("x", 1), HERE)]
for client, server in [(HERE, HERE), (HERE6, HERE6), *others]:
    for token in ("", " ", "t"):
        scope = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "client": client, "server": server,
                 "headers": [(b"host", b"127.0.0.1"), (b"authorization", b"bearer t")]}
        asyncio.run(Guard(app, token)(scope, None, send))
    print()
"""
    done = subprocess.run(
        [annotate_python, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["let_in;let_in;let_in;"] * 2 + ["403;403;let_in;"] * 6


@pytest.mark.fault("19", "a body of three gigabytes")
def test_a_body_that_is_too_long_is_refused_before_it_is_sent(guarded: Guarded) -> None:
    address = ("127.0.0.1", guarded.server.port)
    with socket.create_connection(address, timeout=60) as connection:
        head = f"PUT /datastore/image?image=big HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        connection.sendall(f"{head}Content-Length: {3 * 2**30}\r\n\r\n".encode())
        answer = ""
        while not answer.endswith("}") and (more := connection.recv(4096)):
            answer += more.decode()
    assert answer.startswith("HTTP/1.1 413")
    assert "expected at most 2147483648" in answer


def test_what_was_sent_and_made_is_not_left_on_the_disk(guarded: Guarded) -> None:
    assert guarded.tmp.is_dir()
    before = {*guarded.tmp.rglob("*")}
    image = (guarded.server.studies / "p003.nii.gz").read_bytes()
    assert guarded("PUT", "/datastore/?image=another", **sent("x.nii.gz", image, "file")).status_code == 200
    assert guarded("POST", "/infer/NAME?image=p003&output=image", **params(result_extension=".nrrd")).status_code == 200
    until(lambda: {*guarded.tmp.rglob("*")} <= before)  # it removes what it sent after the client has all of it


def test_a_label_in_another_form_takes_the_place_of_the_first(server: Server) -> None:
    assert server.save_label("p000").status_code == 200
    plain = gzip.decompress((server.labels / "p000.nii.gz").read_bytes())
    reply = requests.put(f"{server.url}/datastore/label?image=p000", files={"label": ("p000.nii", plain)}, timeout=60)
    assert reply.status_code == 200
    assert [path.name for path in (server.studies / "labels/final").glob("p000*")] == ["p000.nii"]
