"""Runs in nnU-Net's own environment: its trainer until the time is up, and its predictor. Imports nothing of this repository:
``VENV/bin/python in_nnunet.py train|predict SPEC.json``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

EPOCHS = 50  # at least so many, each of which lowers the learning rate
SAVES = 10


class TimedTrainer(nnUNetTrainer):
    r"""nnU-Net's trainer with a budget of time in place of 1000 epochs; network, loss, optimiser, augmentation are its own.

    The learning rate of epoch e is nnU-Net's :math:`0.01 (1 - e / E)^{0.9}`. E, the number of epochs, is estimated anew at
    each from the pace so far, so that the schedule ends with the time, however the machine's speed changes. An epoch is
    nnU-Net's 250 iterations, or as many as fit into 1/50 of the budget. Its validation is left out: with all cases in
    training it chooses nothing, and takes time.
    """

    budget, spent, started = 0.0, 0.0, 0.0  # seconds: allowed, of earlier processes; when this one was started
    iterations = 0

    def seconds(self) -> float:
        return self.spent + time.time() - self.started

    def on_train_epoch_start(self) -> None:
        if self.current_epoch:
            self.lr_scheduler.max_steps = self.current_epoch / min(1.0, self.seconds() / self.budget)
        super().on_train_epoch_start()

    def run_training(self) -> None:
        self.on_train_start()
        saved = self.seconds()
        while self.seconds() < self.budget:
            self.on_train_epoch_start()
            end = min(self.budget, self.seconds() + self.budget / EPOCHS)
            losses: list[Any] = []
            while not losses or (len(losses) < self.num_iterations_per_epoch and self.seconds() < end):
                losses.append(self.train_step(next(self.dataloader_train)))
            self.on_train_epoch_end(losses)
            self.iterations += len(losses)
            self.print_to_log_file(
                f"{self.iterations} iterations, {self.seconds():.0f} s, loss {losses[-1]['loss']:.4f}"
            )
            if self.seconds() - saved > self.budget / SAVES:
                self._keep()
                saved = self.seconds()
            self.current_epoch += 1
        self.on_train_end()

    def _keep(self) -> None:
        """What the next process goes on from, whole or not at all."""
        path = Path(self.output_folder, "checkpoint_latest.pth")
        self.save_checkpoint(f"{path}.tmp")
        os.replace(f"{path}.tmp", path)
        path.with_name("spent.json").write_text(json.dumps([self.seconds(), self.iterations]))


# Checkpoints and folders are named by it: the predictor finds nnU-Net's own trainer, whose network is the same.
TimedTrainer.__name__ = nnUNetTrainer.__name__


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Train on all cases until ``budget`` seconds after ``started``, less those of earlier processes."""
    torch.manual_seed(spec["seed"])
    np.random.seed(spec["seed"])  # of its loaders, which draw from the global generator
    data = Path(spec["preprocessed"])
    plans, dataset = (json.loads((data / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    latest = Path(spec["model"], "fold_all/checkpoint_latest.pth")
    plans["continue_training"] = latest.is_file()
    trainer = TimedTrainer(plans, spec["configuration"], "all", dataset, torch.device("cpu"))
    trainer.budget, trainer.started = spec["budget"], spec["started"]
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
        trainer.spent, trainer.iterations = json.loads(latest.with_name("spent.json").read_text())
    trainer.run_training()
    shape = {"patch": trainer.configuration_manager.patch_size, "batch": trainer.batch_size}
    parameters = sum(p.numel() for p in trainer.network.parameters())
    return {"seconds": trainer.seconds(), "steps": trainer.iterations, "epochs": trainer.current_epoch,
            "parameters": parameters, **shape}  # fmt: skip


def predict(spec: dict[str, Any]) -> dict[str, Any]:
    """Segment ``images`` into ``predicted``, one after the other, with its defaults: overlap of one half, mirrored views."""
    start = time.time()
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(spec["model"], ("all",), "checkpoint_final.pth")
    Path(spec["predicted"]).mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(spec["images"], spec["predicted"])
    return {"seconds": time.time() - start}


if __name__ == "__main__":
    what, file = sys.argv[1], Path(sys.argv[2])
    spec = json.loads(file.read_text())
    torch.set_num_threads(spec["threads"])
    found = {"train": train, "predict": predict}[what](spec)
    Path(spec["answer"]).write_text(json.dumps(found, default=list))
