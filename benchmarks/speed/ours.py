"""A bundle's own training, step by step: the worker."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .phases import Clock
from .turns import ROOT, answer, keep_stdout, wait


class Turns:
    """Handler of a training: every epoch is a turn, and its time is told by phase.

    What is left of an epoch's time is logging (the row of the epoch, its checkpoint, the trackers) or, where the epoch ends with
    one, validation with its pictures.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock, self.flops = clock, 0
        self._began = self._terms = self._ended = 0.0

    def attach(self, trainer: Any) -> None:
        from ignite.engine import Events

        self.trainer = trainer
        trainer.add_event_handler(Events.STARTED, self._begin)
        trainer.add_event_handler(Events.EPOCH_STARTED, self._turn)

    def _begin(self) -> None:
        clock, trainer = self.clock, self.trainer
        networks = [m for m in trainer.method.modules() if type(m).__module__.startswith("scripts.networks")]
        clock.watch_networks(*networks)
        trainer._draw = clock.timed("data", trainer._draw)
        trainer.method.register_forward_pre_hook(self._before_terms)
        trainer.method.register_forward_hook(self._after_terms)
        optimise = clock.timed("optimiser and average", trainer._optimise)

        def backward_ends() -> None:
            clock.add("backward", clock.now() - self._ended)
            optimise()

        trainer._optimise = backward_ends
        iteration = trainer._iteration

        def count(*args: Any) -> Any:
            """The first iteration also counts what is multiplied, and is in no figure."""
            trainer._process_function = iteration
            with FlopCounterMode(display=False) as counter:
                found = iteration(*args)
            self.flops = counter.get_total_flops()
            return found

        trainer._process_function = count

    def _before_terms(self, *_: Any) -> None:
        self._terms, self.clock.in_step = self.clock.now(), True

    def _after_terms(self, *_: Any) -> None:
        self.clock.in_step = False
        self._ended = self.clock.now()
        self.clock.add("method", self._ended - self._terms)

    def _turn(self) -> None:
        if self.trainer.state.epoch > 1:
            self._tell()
        wait()
        self._began = self.clock.now()

    def _tell(self) -> None:
        total, phases = self.clock.now() - self._began, self.clock.take()
        phases["losses"] = phases.pop("method") - phases.get("student forward", 0) - phases.get("teacher forward", 0)
        validated = "validation_seconds" in self.trainer.state.metrics
        phases["validation" if validated else "logging"] = total - sum(phases.values())
        answer(
            phases=phases,
            steps=self.trainer.epoch_steps,
            flops=self.flops,
            format=str(self.trainer.dtype or torch.float32),
        )


def main(spec: dict[str, Any]) -> None:
    """Train the bundle ``spec["bundle"]`` with the files and overrides of ``spec``, an epoch a turn."""
    keep_stdout()
    from monai.bundle import ConfigParser

    bundle = ROOT / "bundles" / spec["bundle"]
    os.chdir(bundle)
    sys.path.insert(0, str(bundle))
    parser = ConfigParser()
    parser.read_config([str(bundle / file) for file in spec["files"]])
    parser.read_meta(str(bundle / "configs/metadata.json"))
    parser.update(spec["overrides"])
    trainer = parser.get_parsed_content("train::trainer")
    parser.get_parsed_content("config").start()
    Turns(Clock(trainer.device)).attach(trainer)
    trainer.run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
