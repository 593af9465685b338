"""The promises of custom/cohort/intensities.py and of the handler that asks it: who is named, who is refused, in which words."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRange, ScaleIntensityRangePercentiles
from saying import says
from tiny import trainer

from custom.cohort.intensities import FILE, Intensities, IntensityError, measure, nonsense, outside_training, seen
from custom.inference.intensities import IntensityCheck
from custom.stream.bank import Bank

PICTURE = ScaleIntensityRange(0, 255, 0.0, 1.0, clip=True)  # as the tasks of pictures do
LIKE = ("Save it with the range of values", "in training", "the same bits and unit", "remove it")


def picture(seed: int, black: float = 0.3) -> torch.Tensor:
    """``(1, 64, 64)``, 0 to 255: a part is black, the rest grey."""
    numbers = np.random.default_rng(seed)
    grey = numbers.normal(100 + 5 * (seed % 5), 30, (1, 64, 64)).clip(1, 254).round()
    return torch.from_numpy(np.where(numbers.random(grey.shape) < black, 0, grey)).float()


def of(image: torch.Tensor) -> dict:
    return measure(image, ["image"])


TRAINED = seen([of(PICTURE(picture(seed))) for seed in range(5)])


def test_what_is_measured_in_closed_form():
    (found,) = measure(torch.tensor([[0.0, 0.0, 1.0, 3.0]]), ["a"]).values()
    assert (found.low, found.high, found.mean, found.median) == (0.0, 3.0, 1.0, 0.0)
    assert (found.deviation, found.darkest, found.brightest, found.finite) == (1.5**0.5, 0.5, 0.25, True)


def test_the_record_is_the_range_over_the_cases_of_each_channel():
    cases = [measure(torch.tensor([[0.0, 1.0], [2.0, 4.0]]), ["a", "b"]), measure(torch.tensor([[-1.0, 3.0]]), ["a"])]
    found = seen(cases)
    assert (found["a"]["low"], found["a"]["high"], found["a"]["mean"]) == ((-1, 0), (1, 3), (0.5, 1))
    assert (found["b"]["low"], found["b"]["high"]) == ((2, 2), (4, 4))


def test_scans_like_those_of_training_are_not_named():
    for seed in range(5):
        assert (
            nonsense(of(PICTURE(picture(seed))), TRAINED) == outside_training(of(PICTURE(picture(seed))), TRAINED) == ""
        )
    assert outside_training(of(PICTURE(picture(9, black=0.35))), TRAINED) == ""


@pytest.mark.fault(
    "32", "16 bits for a bundle of 8, full and 12 bits deep, half of it black; 0 to 1 for 0 to 255; another unit"
)
@pytest.mark.parametrize(
    ("image", "parts"),
    [
        (picture(0) * 257, ["image has its highest value in 69% of all voxels", "in training in at most 0%"]),
        (picture(0, 0.6) * 256, ["image has its highest value in 40% of all voxels"]),
        (picture(0) * 16, ["image has its highest value in"]),
        (picture(0) / 255, ["image runs from 0 to 0.00304", "in training over no less than 0.776"]),
        (picture(0) * 0 + 9, ["image is 0.0352941 all over", "nothing can be found", "Remove it"]),
        (picture(0) * float("nan"), ["image has values that are not finite", "Correct the file"]),
    ],
)  # fmt: skip
def test_what_a_network_cannot_read_is_refused(image, parts):
    says(nonsense(of(PICTURE(image)), TRAINED), *parts)


def test_values_far_beyond_those_of_training_are_refused():
    text = nonsense(of(picture(0)), TRAINED)
    says(text, "image runs from 0 to 198", "(median 82)", "in training from 0 to 0.855", *LIKE)
    wild = of(torch.nn.functional.pad(torch.tensor([[2549.0]]), (0, 9999)))  # what MONAI makes of one bright voxel
    assert nonsense(wild, TRAINED).startswith("image runs from 0 to 2549 after preprocessing (median 0), in training")


def test_a_scan_of_few_bright_voxels_is_unlike_and_not_nonsense():
    """Percentiles of the whole are 0 in it; scaled by the others it is read."""
    sparse = of(torch.nn.functional.pad(torch.ones(1, 20), (0, 9980)))
    assert nonsense(sparse, TRAINED) == ""
    highest, mean, deviation = outside_training(sparse, TRAINED).split("; ")
    says(highest, "image: highest value 1", "in training 0.776 to 0.855")
    says(mean, "image: mean 0.002", "in training 0.272 to 0.329")
    says(deviation, "image: standard deviation 0.0447", "in training 0.205 to 0.237")


def test_without_a_record_only_what_no_network_can_read_is_refused():
    assert nonsense(of(PICTURE(picture(0) * 16)), {}) == outside_training(of(PICTURE(picture(0) * 257)), {}) == ""
    text = nonsense(of(PICTURE(picture(0, black=0.02) * 257)), {})
    says(text, "image has its highest value in 98% of all voxels after preprocessing. Save it", *LIKE[1:])
    assert nonsense(of(torch.zeros(1, 4, 4)), {}).startswith("image is 0 all over")


def test_a_usual_scan_scaled_by_percentiles_is_not_named():
    scale = ScaleIntensityRangePercentiles(0.5, 99.5, 0.0, 1.0, clip=True)
    record = seen([of(scale(picture(seed))) for seed in range(3)])
    assert (
        nonsense(of(scale(picture(4) * 1000)), record) == outside_training(of(scale(picture(4) * 1000)), record) == ""
    )


@pytest.mark.fault("32", "greys inverted, and a value far outside around a scan, squeezed by percentiles")
def test_a_scan_whose_greys_are_turned_round_or_squeezed_to_one_end_is_nonsense():
    def scan(seed: int) -> torch.Tensor:  # mostly dark, as of the head or the heart in MRI
        numbers = np.random.default_rng(seed)
        grey = np.abs(numbers.normal(0, 30, (64, 64)))
        grey[20:40, 20:40] += 300
        return torch.from_numpy(grey)[None].float()

    scale = ScaleIntensityRangePercentiles(0.5, 99.5, 0.0, 1.0, clip=True)
    record = seen([of(scale(scan(seed))) for seed in range(3)])
    assert nonsense(of(scale(scan(4))), record) == ""
    padded = scan(4)
    padded[torch.rand(padded.shape, generator=torch.Generator().manual_seed(0)) < 0.03] = -32768
    for odd in (padded, 400 - scan(4)):
        text = nonsense(of(scale(odd)), record)
        assert "image has a median of 0.9" in text
        says(text, "inverted", "far below or above all others", *LIKE)


# in a run


def engine(image: torch.Tensor, **batch: object) -> SimpleNamespace:
    file = {"filename_or_obj": ["/data/p01.nii.gz"]}
    return SimpleNamespace(state=SimpleNamespace(batch={"image": MetaTensor(image[None], meta=file), **batch}))


@pytest.fixture
def check(tmp_path) -> IntensityCheck:
    (tmp_path / FILE).write_text(json.dumps(TRAINED))
    return IntensityCheck(tmp_path / "model.pt", ["image"])


def run(check: IntensityCheck, **cases: torch.Tensor) -> None:
    """An evaluator's run over cases by name."""
    evaluator = Engine(lambda *_: None)
    check.attach(evaluator)
    evaluator.run([engine(image, case=[name]).state.batch for name, image in cases.items()])


def test_the_handler_names_the_cases_in_one_line_and_not_again_for_the_next_network(check, caplog):
    run(check, p06=PICTURE(picture(1)))
    assert caplog.messages == []
    bright = {f"p{k}": PICTURE(picture(1) * 1.5) for k in range(1, 6)}
    run(check, **bright)
    run(check, **bright)
    (text,) = caplog.messages
    says(text, "Intensities", "5 of 6 scans unlike", ": p1 (image: highest value 1, in training 0.")
    assert text.count("mean 0.436, in training 0.272 to 0.329") == 3
    assert text.endswith("), p4, p5.")


def test_the_handler_refuses_a_case_and_names_those_before_it(check, caplog):
    with pytest.raises(IntensityError, match=r"^case p07: image has its highest value in 7.% .*, or remove it\.$"):
        run(check, p06=PICTURE(picture(1) * 1.5), p07=PICTURE(picture(1) * 257))
    assert [text[:70] for text in caplog.messages] == [
        "Intensities: after preprocessing 1 of 1 scan unlike those in training:"
    ]


@pytest.mark.fault("32", "a scan of nonsense between others, which are segmented")
@pytest.mark.parametrize("size", [1, 2])
def test_an_inference_leaves_out_what_is_nonsense_and_names_it_at_the_end(tmp_path, check, size):
    check.skip, seen = True, []
    evaluator = Engine(lambda _, batch: seen.extend(batch["case"]))
    check.attach(evaluator)
    cases = {"p1": PICTURE(picture(1)), "p2": PICTURE(picture(1) * 257), "p3": PICTURE(picture(2)),
             "p4": PICTURE(picture(2) / 255)}  # fmt: skip
    names = list(cases)
    batches = [{"image": torch.stack([cases[n] for n in group]), "case": group}
               for group in (names[k : k + size] for k in range(0, 4, size))]  # fmt: skip
    with pytest.raises(IntensityError) as error:
        evaluator.run(batches)
    first, *lines = str(error.value).split("\n  ")
    refused = [line.split(":")[0] for line in lines]
    if size == 1:
        assert (first, refused, seen) == (
            "2 of 4 scans not segmented, all others are:",
            ["case p2", "case p4"],
            ["p1", "p3"],
        )
        says(lines[0], "case p2: image has its highest value in", *LIKE)
    else:
        assert first == "4 of 4 scans not segmented:"
        assert "case p1: in one batch with p2. Set dataloader::batch_size to 1." in lines
        assert seen == []


def test_what_one_inference_left_out_is_no_fault_of_the_next(check):
    check.skip = True
    with pytest.raises(IntensityError):
        run(check, p1=PICTURE(picture(1)), p2=PICTURE(picture(1) * 257))
    run(check, p1=PICTURE(picture(1)))


def test_of_a_case_with_some_modalities_those_are_judged(tmp_path):
    record = seen(
        [measure(torch.stack([PICTURE(picture(s))[0], torch.rand(64, 64) - 9]), ["a", "b"]) for s in range(3)]
    )
    (tmp_path / FILE).write_text(json.dumps(record))
    check = IntensityCheck(tmp_path, ["a", "b"])
    second = torch.linspace(-9, -8, 64 * 64).reshape(1, 64, 64)
    check(engine(second, modality=["b"]))
    check(engine(second, present={"a": torch.tensor([False]), "b": torch.tensor([True])}))
    with pytest.raises(IntensityError, match=r"a runs from -9 to -8"):
        check(engine(second, modality=["a"]))


def test_weights_without_a_record_are_named_once(tmp_path, caplog):
    handler = IntensityCheck(tmp_path, ["image"])
    run(handler, p1=PICTURE(picture(1)), p2=PICTURE(picture(2)))
    assert [text for text in caplog.messages if "keep no record of those in training" in text] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_training_leaves_what_it_saw_beside_the_weights(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    made = trainer("mean_teacher", tmp_path, epochs=1)
    made.run()
    record = json.loads((tmp_path / "bundle/models" / FILE).read_text())
    banks = [made.labelled.bank, made.unlabelled.bank]
    highs = [bank[case]["image"].max().item() for bank in banks for case in range(len(bank))]
    assert record["0" if "0" in record else "image"]["high"] == [min(highs), max(highs)]
    assert not [text for text in caplog.messages if "Intensities" in text]


def test_a_training_names_the_scans_that_judge_and_are_unlike_those_it_reads(tmp_path, caplog, monkeypatch):
    made = trainer("mean_teacher", tmp_path, epochs=1)
    bank, own = made.validator.dataset, Bank.intensities

    def bright(self: Bank, case: int) -> dict[str, Intensities]:
        more = 9 * (self is bank and case == 1)
        return {name: replace(found, mean=found.mean + more) for name, found in own(self, case).items()}

    monkeypatch.setattr(Bank, "intensities", bright)
    with caplog.at_level(logging.WARNING):
        made.run()
    (text,) = [text for text in caplog.messages if "Intensities" in text]
    name = bank.case_name(1)
    assert text.startswith(
        f"Intensities: after preprocessing 1 of 8 scans unlike those in training: validation {name} ("
    )


@pytest.mark.fault("32", "a blank scan in inference, after a training of the bundle's own")
def test_inference_refuses_a_scan_by_name_and_take_those_like_training(finished, run_bundle, phantoms, tmp_path):
    bundle = finished("supervised", tmp_path / "run") / "bundle"
    assert set(json.loads((bundle / "models" / FILE).read_text())) == {"image"}
    scan = sorted((phantoms / "phantom_2d/images").iterdir())[0]
    (tmp_path / "images").mkdir()
    shutil.copy(scan, tmp_path / "images")
    where = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "predictions")}
    run_bundle(bundle, "run", "configs/inference.yaml", **where)
    (written,) = (tmp_path / "predictions").glob("*_pred.*")
    assert nib.load(written).shape == nib.load(scan).shape
    blank = nib.Nifti1Image(np.full((20, 20, 3), 7, np.int16), np.eye(4))
    nib.save(blank, tmp_path / "images/a_blank.nii.gz")
    with pytest.raises(RuntimeError) as error:
        run_bundle(bundle, "run", "configs/inference.yaml", **{**where, "output_dir": str(tmp_path / "again")})
    first, line = str(error.value.__cause__).splitlines()
    says(first, "1 of 2 scans not segmented")
    says(line, "case a_blank", "image is 0 all over", "Remove it")
    assert [path.name for path in (tmp_path / "again").glob("*_pred.*")] == [written.name]
