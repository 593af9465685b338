"""A running annotation server, and what annotators do with it by plain HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from ports import free_port

ROOT = Path(__file__).resolve().parents[1]
# Numbers of a task with which an epoch takes a second.
TINY = {"steps": 4, "epoch_steps": 2, "val_interval": 1, "labelled_batch": 2, "unlabelled_batch": 2, "patch": [32, 32],
        "widths": [4, 8], "dropout": [0.0, 0.1]}  # fmt: skip


@dataclass
class Server:
    """A running server. ``labels`` holds the right label of each of ``studies``' images, by the same names; with ``study`` the
    server is started on that, and ``model`` is not used."""

    python: Path
    model: str
    studies: Path
    work: Path
    labels: Path
    environment: dict[str, str] = field(default_factory=dict)
    study: Path | None = None
    port: int = 0
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bundle(self) -> Path:
        return next(path for path in (self.work / "model").iterdir() if path.is_dir())

    @property
    def name(self) -> str:
        return self.bundle.name

    def sha256(self) -> str:
        return hashlib.sha256((self.bundle / "models/model.pt").read_bytes()).hexdigest()

    def launch(self) -> Server:
        """Start the process; :meth:`ready` waits until it answers."""
        self.port = free_port()
        of = {"--study": self.study} if self.study else {"--studies": self.studies, "--model": self.model}
        options = {**of, "--work": self.work, "--port": self.port}
        log = self.work.with_suffix(".log").open("a")
        self.process = subprocess.Popen(
            [self.python, "-m", "annotate.start", *(str(text) for option in options.items() for text in option)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **self.environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        return self

    def ready(self, seconds: float = 400) -> Server:
        for _ in self.while_it_runs(seconds):
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{self.url}/info/", timeout=5)
                return self
        raise TimeoutError(self.log())

    def while_it_runs(self, seconds: float) -> Iterator[None]:
        """Five looks a second for so many seconds; a server that ends in between is an error at once."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield
            assert self.process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
                raise AssertionError(self.log())

    def log(self) -> str:
        return self.work.with_suffix(".log").read_text()[-5000:]

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)

    # what annotators do, by plain HTTP

    def info(self) -> dict[str, Any]:
        return requests.get(f"{self.url}/info/", timeout=60).json()

    def stats(self) -> dict[str, Any]:
        return self.info()["train_stats"][self.name]

    def infer(self, image: str, output: str = "json", params: str = "{}") -> requests.Response:
        address = f"{self.url}/infer/{self.name}?image={image}&output={output}"
        return requests.post(address, data={"params": params}, timeout=120)

    def save_label(self, image: str) -> requests.Response:
        """The right label of an image."""
        file = self.labels / f"{image}.nii.gz"
        with file.open("rb") as content:
            return requests.put(
                f"{self.url}/datastore/label?image={image}", files={"label": (file.name, content)}, timeout=60
            )

    def train(self, **params: Any) -> requests.Response:
        return requests.post(f"{self.url}/train/{self.name}", json=params, timeout=60)

    def status(self) -> dict[str, Any]:
        return requests.get(f"{self.url}/train/", timeout=60).json()

    def trained(self, task: str, seconds: float = 400) -> dict[str, Any]:
        """The status of a training once it has ended."""
        for _ in self.while_it_runs(seconds):
            status = self.status()
            if status["id"] == task and status["status"] in ("DONE", "ERROR", "STOPPED"):
                return status
        raise TimeoutError(self.log())

    def training_under_way(self, epochs: int = 0, seconds: float = 400) -> dict[str, Any]:
        """``train_stats`` once the training is past its imports, and has done that many epochs."""
        for _ in self.while_it_runs(seconds):
            stats = self.stats()
            if stats["last"].get("status") == "RUNNING" and stats["epoch"] >= epochs:
                return stats
        raise TimeoutError(self.log())

    def training_has_ended(self, seconds: float = 60) -> dict[str, Any]:
        """``train_stats`` once no process is training: a killed one takes a moment."""
        for _ in self.while_it_runs(seconds):
            if (stats := self.stats())["last"]["status"] != "RUNNING":
                return stats
        raise TimeoutError(self.log())
