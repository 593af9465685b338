"""A cohort of random pictures in memory, and a trainer over it: what the trainer's own tests stand on.

Each method has a file ``tiny_<bundle>.py`` beside this one: ``method()`` makes a small one, ``WEIGHTS`` are its terms'
weights, ``CHANNELS`` the channels of its pictures where they are not one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer
from monai.losses import DiceCELoss
from torch import Tensor

from custom.methods import Method
from custom.networks import UNet
from custom.run.output import Output
from custom.stream.augment import Augmentation, Flip, Gamma, Noise
from custom.stream.bank import Bank
from custom.stream.mixing import CutMix
from custom.stream.stream import Stream
from custom.training.trainer import DualStreamTrainer
from custom.training.validation import ServingEvaluator

CLASSES = ["background", "bright"]
METHODS = sorted(path.stem.removeprefix("tiny_") for path in Path(__file__).parent.glob("tiny_*.py"))


def draw(case: dict[str, Any]) -> dict[str, Tensor]:
    """A 16 x 16 picture of noise with a bright square, by the case's name; label where the key is asked for."""
    files = case["image"] if isinstance(case["image"], list) else [case["image"]]
    generator = torch.Generator().manual_seed(int(files[0]))
    image = 0.3 * torch.rand(len(files), 16, 16, generator=generator)
    x, y = torch.randint(2, 8, (2,), generator=generator).tolist()
    label = torch.zeros(1, 16, 16)
    label[:, x : x + 6, y : y + 6] = 1
    return {"image": image + 0.5 * label, **({"label": label} if "label" in case else {})}


def bank(name: str, first: int, cases: int, channels: Sequence[str] = ("image",)) -> Bank:
    keys = ("image",) if name == "unlabelled" else ("image", "label")
    data = [
        {
            "patient": f"{name}{i}",
            "image": dict.fromkeys(channels, str(first + i)) if len(channels) > 1 else str(first + i),
            "label": "drawn",
        }
        for i in range(cases)
    ]
    return Bank(data, draw, keys=keys, name=name, channels=channels)


def network(seed: int = 0, channels: int = 1) -> UNet:
    torch.manual_seed(seed)
    return UNet(2, channels, len(CLASSES), widths=(4, 8), dropout=(0.0, 0.2))


def supervised_loss() -> DiceCELoss:
    return DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, batch=True, lambda_dice=0.5, lambda_ce=0.5)


def of(name: str) -> Any:
    """The module ``tiny_<name>``."""
    return importlib.import_module(f"tiny_{name}")


def method(name: str) -> Method:
    return of(name).method()


def weights(name: str) -> dict[str, Any]:
    return of(name).WEIGHTS


def trainer(
    which: str | Method = "mean_teacher",
    folder: Path | None = None,
    epochs: int = 3,
    epoch_steps: int = 3,
    weights: dict[str, Any] | None = None,
    validation: int = 2,
    unlabelled: int = 3,
    labelled: int = 3,
    batch: int = 2,
    lr: float = 0.05,
    optimizer: str = "sgd",
    handlers: Sequence = (),
    evaluator: type[ServingEvaluator] = ServingEvaluator,
    **settings: Any,
) -> DualStreamTrainer:
    chosen = method(which) if isinstance(which, str) else which
    parameters = [p for p in chosen.parameters() if p.requires_grad]
    made = {
        "sgd": lambda: torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True),
        "adam": lambda: torch.optim.Adam(parameters, lr),
        "plain": lambda: torch.optim.SGD(parameters, lr, foreach=False),
    }[optimizer]()
    seed, parts = settings.pop("seed", 0), [Flip(), Noise(0.05, prob=0.5)]
    channels = getattr(of(which), "CHANNELS", ["image"]) if isinstance(which, str) else ["image"]
    views = Augmentation(parts, strong=[Gamma(0.5, 2.0, prob=0.8)])
    streams = {
        name: Stream(bank(name, first, cases, channels), batch, (16, 16), views, seed=seed, name=name, mixing=CutMix())
        for name, first, cases in (("labelled", 0, labelled), ("unlabelled", 100, unlabelled))
    }
    if weights is None:
        weights = of(which if isinstance(which, str) else "mean_teacher").WEIGHTS
    return DualStreamTrainer(
        device="cpu", max_epochs=epochs, epoch_steps=epoch_steps, method=chosen, optimizer=made, **streams,
        weights=weights, seed=seed,
        validator=evaluator(torch.device("cpu"), bank("validation", 200, validation, channels), chosen, SimpleInferer(), CLASSES),
        output=Output(folder) if folder is not None else None, train_handlers=handlers, **settings,
    )  # fmt: skip


class Scripted(ServingEvaluator):
    """Gives these scores, one an epoch."""

    script: ClassVar[list[float]] = []

    def run(self, global_epoch: int = 1) -> None:
        score = self.script[global_epoch - 1]
        self.scores = dict.fromkeys(self.method.serving(), score)
        self.state.metrics = {f"{name}/dice_mean": score for name in self.scores}
        self.scored_epoch = global_epoch


def scripted(scores: list[float], folder: Path | None, **settings: Any) -> DualStreamTrainer:
    Scripted.script = scores
    made = trainer("supervised", folder, epochs=len(scores), epoch_steps=1, evaluator=Scripted, **settings)
    ValidationHandler(1, made.validator).attach(made)
    return made
