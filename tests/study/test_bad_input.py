"""Scans of which no study should be made, or only with a word: told before the first training, and nothing is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from saying import raises, says

from custom.cohort.record import Record
from custom.errors import UserError
from custom.study import plan
from custom.study.budget import Costs
from custom.study.remarks import refuse_blank, refuse_twins
from custom.study.settings import StudyError, read
from custom.study.space import Probed
from custom.study.trainings import trainings

SCANS, LABELLED, SIDE = 8, 6, 64
BUNDLES = ("supervised", "mean_teacher")


@pytest.fixture(autouse=True)
def no_probe(monkeypatch):
    """What the probe would find; nothing is trained."""

    def found(*arguments: object) -> tuple[Costs, Probed]:
        return Costs(dict.fromkeys(BUNDLES, 0.1), dict.fromkeys(BUNDLES, 9.0), 0.1, arguments[5]), Probed(4e8, 5e8, 3e7)  # type: ignore[arg-type]

    monkeypatch.setattr(plan, "_probe", found)


def draw(root: Path, k: int, side: int = SIDE, colours: int = 0, empty: bool = False, second: bool = False) -> None:
    mask = np.zeros((side, side), np.uint8)
    if not empty:
        mask[side // 4 : side // 2, side // 4 : side // 2] = 1
    if second:
        mask[side // 2 : side // 2 + 6, side // 2 : side // 2 + 6] = 2
    image = (mask * 100 + np.random.default_rng(k).integers(0, 50, mask.shape)).astype(np.uint8)
    Image.fromarray(np.stack([image] * colours, -1) if colours else image).save(root / f"images/p{k:02}_a.png")
    if k < LABELLED:
        Image.fromarray(mask).save(root / f"labels/p{k:02}_a.png")


@pytest.fixture
def made(tmp_path) -> Path:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for k in range(SCANS):
        draw(tmp_path, k)
    return tmp_path


def study(root: Path) -> list[str]:
    said: list[str] = []
    plan.plan(root / "out", plan.Asked(root / "images", root / "labels", 7200.0), said.append)
    return said


def copy(source: str, target: str) -> Callable[[Path], object]:
    return lambda root: shutil.copy(root / source, root / target)


def both(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda root: [step(root) for step in steps]


def test_a_plan_that_is_refused_leaves_the_one_there_is_and_one_that_is_made_keeps_it(made):
    study(made)
    for name in ("study.yaml", "task.yaml"):
        (made / "out" / name).write_text((made / "out" / name).read_text(encoding="utf-8") + "# mine\n")
    before = [(made / "out" / name).read_text(encoding="utf-8") for name in ("study.yaml", "task.yaml")]
    with pytest.raises(UserError, match="too small"):
        plan.plan(made / "out", plan.Asked(made / "images", made / "labels", 1.0), lambda _: None)
    assert [(made / "out" / name).read_text(encoding="utf-8") for name in ("study.yaml", "task.yaml")] == before
    said = study(made)
    assert "note: what study.yaml said before is kept as study.yaml.before" in said
    assert [
        (made / "out" / f"{name}.before").read_text(encoding="utf-8") for name in ("study.yaml", "task.yaml")
    ] == before


WRITTEN = ("plan.md", "task.yaml", "study.yaml")


def killed_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is about to write this file into the folder of the study is killed."""

    def write(real: Callable[..., object]) -> Callable[..., object]:
        def stopped(path: Path, *rest: object) -> object:
            file = path / name if path.is_dir() else path
            if file.name == name and file.parent.name == "out":
                raise KeyboardInterrupt
            return real(path, *rest)

        return stopped

    monkeypatch.setattr(plan, "write_text", write(plan.write_text))
    monkeypatch.setattr(plan.task_file, "write", write(plan.task_file.write))
    if name == "study.yaml":
        monkeypatch.setattr(plan, "write", write(plan.write))


@pytest.mark.parametrize("killed", WRITTEN)
def test_a_plan_that_is_killed_while_it_is_written_is_none(made, monkeypatch, killed):
    out = made / "out"
    with monkeypatch.context() as patch:
        killed_at(killed, patch)
        with pytest.raises(KeyboardInterrupt):
            study(made)
    assert not (out / "study.yaml").exists()
    study(made)
    assert all((out / name).is_file() for name in WRITTEN)


@pytest.mark.parametrize("killed", WRITTEN)
def test_a_plan_made_again_that_is_killed_loses_neither_the_settings_nor_what_the_user_wrote(made, monkeypatch, killed):
    out = made / "out"
    study(made)
    (out / "study.yaml").write_text((out / "study.yaml").read_text(encoding="utf-8") + "# mine\n")
    (out / "task.yaml").write_text((out / "task.yaml").read_text(encoding="utf-8") + "# mine\n")
    before = read(out)
    for _ in range(2):
        with monkeypatch.context() as patch:
            killed_at(killed, patch)
            with pytest.raises(KeyboardInterrupt):
                study(made)
        assert not (out / "study.yaml").exists(), "no old settings beside a new task"
        assert plan.planned_before(out) == before
    study(made)
    assert plan.planned_before(out) == read(out)
    assert not (out / plan.ASIDE).exists()
    for name in ("study.yaml", "task.yaml"):
        assert (out / f"{name}.before").read_text(encoding="utf-8").endswith("# mine\n")


def test_a_blank_unlabelled_scan_is_named_in_the_plan(made):
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(made / "images/p07_a.png")
    assert any("p07_a" in line and "blank" in line for line in study(made))


def test_labels_that_came_since_are_checked_before_anything_is_trained(made, monkeypatch):
    study(made)
    settings = read(made / "out")
    trainings(
        made / "out", settings, plan.cohort_of(made / "out", made / "images", made / "labels", settings.patient).scans
    )
    plan.check(made / "out", lambda _: None)
    Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(made / "labels/p01_a.png")
    with pytest.raises(StudyError, match=r"1 fault in the scans\n(.|\n)*p01_a"):
        plan.check(made / "out", lambda _: None)


def test_a_blank_labelled_modality_is_named(tmp_path):
    for channel, values in (("flair", [7, 9]), ("t1", [0, 0])):
        (tmp_path / channel).mkdir()
        Image.fromarray(np.array([values], np.uint8)).save(tmp_path / channel / "p1.png")
    image = {channel: str(tmp_path / channel / "p1.png") for channel in ("flair", "t1")}
    record = Record(tmp_path / "scans.checked.json")
    with pytest.raises(StudyError, match=r"\n  p1 \(patient p1\): 0 all over in t1\n"):
        refuse_blank([{"patient": "p1", "image": image, "label": "/any"}], record)


def into_a_folder(path: Path) -> None:
    """A scan of a patient's folder instead of the patient's file."""
    path.with_suffix("").mkdir()
    path.rename(path.with_suffix("") / "scan.png")


REFUSED = {
    "blank images with labels": (
        lambda root: [Image.new("L", (SIDE, SIDE), 7).save(root / f"images/p0{k}_a.png") for k in (1, 2)],
        ["2 labelled images blank", "\n  p01_a (patient p01_a): 7 all over\n  p02_a (patient p02_a): 7 all over\n",
         "Take its label or the scan out", "lacks one modality, that modality's file"],
    ),
    "all labels empty": (
        lambda root: [draw(root, k, empty=True) for k in range(SCANS)],
        ["no label has a class", "something is drawn"],
    ),
    "no labels": (lambda root: shutil.rmtree(root / "labels"), ["there is no folder", "/labels"]),
    "an unlabelled copy of a labelled image": (
        copy("images/p00_a.png", "images/p07_b.png"),
        ["p07_b (patient p07, unlabelled) holds the same image as p00_a (patient p00, labelled)", "Take one of each pair out"],
    ),
    "one labelled image of two patients": (
        both(copy("images/p00_a.png", "images/p05_a.png"), copy("labels/p00_a.png", "labels/p05_a.png")),
        ["1 image under two names", "p05_a (patient p05_a, labelled) holds the same image as p00_a"],
    ),
    "colours among grey pictures": (
        both(lambda root: draw(root, 2, colours=3), lambda root: draw(root, 7, colours=3)),
        ["2 of 14 files cannot be used", "labelled, p02_a: channels: 3", "most images have 1", "Convert it", "take it out"],
    ),
    "a folder for each patient": (
        lambda root: [into_a_folder(path) for path in sorted((root / "images").iterdir())],
        ["no images in", "/images itself", "found 8 images in subfolders", "first: p00_a/scan.png", "expected all in",
         "a name of its own", "a link to it, as p00_a_scan.png", "data list", "docs/data.md"],
    ),
    "one name twice": (
        lambda root: Image.open(root / "images/p00_a.png").save(root / "images/p00_a.jpg"),
        ["p00_a"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_study_can_be_made_of_is_said_in_one_report(made, case):
    spoil, parts = REFUSED[case]
    spoil(made)
    before = sorted(path.name for path in made.rglob("*.png"))
    with raises(UserError, *parts):
        study(made)
    assert sorted(path.name for path in made.rglob("*.png")) == before
    assert not (made / "out/study.yaml").exists()


NOTED = {
    "sizes far apart": (
        both(lambda root: draw(root, 0, side=640), lambda root: draw(root, 7, side=12)),
        ["2 scans far from the median size", "p00_a (10 times), p07_a (5 times)"],
    ),
    "a class of one patient": (
        lambda root: draw(root, 2, second=True),
        ["label 2 is in the labels of one patient alone (p02_a)", "no network has learnt the class"],
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_odd_is_said_at_once_and_in_the_plan(made, case):
    spoil, (first, *parts) = NOTED[case]
    spoil(made)
    (line,) = (line for line in study(made) if line.startswith(f"note: {first}"))
    says(line, *parts)
    says((made / "out/plan.md").read_text(encoding="utf-8"), f"Note: {first}", *parts)


def test_empty_masks_of_healthy_people_and_two_unlabelled_copies_are_no_fault(made):
    for k in (0, 1):
        draw(made, k, empty=True)
    shutil.copy(made / "images/p06_a.png", made / "images/p08_a.png")
    assert not [line for line in study(made) if line.startswith("note")]
    assert (made / "out/study.yaml").is_file()


def test_scans_of_one_patient_that_are_alike_are_no_fault(made):
    for folder in ("images", "labels"):
        shutil.copy(made / folder / "p00_a.png", made / folder / "p00_b.png")
    study(made)


@pytest.mark.parametrize("blank", [0, 7])
def test_a_missing_modality_that_is_blank_in_several_patients_is_no_image_twice(tmp_path, blank):
    """Only the blank channel is alike; what is alike in a channel with content is found all the same."""
    for channel in ("flair", "t1"):
        (tmp_path / channel).mkdir()

    def save(name: str, channel: str, seed: int | None) -> str:
        pixels = np.full((8, 8), blank) if seed is None else np.random.default_rng(seed).integers(0, 50, (8, 8))
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / channel / f"{name}.png")
        return str(tmp_path / channel / f"{name}.png")

    def entry(name: str, seed: int) -> dict[str, object]:
        image = {"flair": save(name, "flair", seed), "t1": save(name, "t1", None)}
        return {"patient": name, "image": image, "label": "/any"}

    record = Record(tmp_path / "scans.checked.json")
    refuse_twins([entry("a", 1), entry("b", 2)], [], record)
    with pytest.raises(
        StudyError, match=r"c \(patient c, labelled\) holds the same image as a \(patient a, labelled\)"
    ):
        refuse_twins([entry("a", 1), entry("b", 2), entry("c", 1)], [], record)


def test_too_little_room_on_disk_is_said_before_the_first_training(made, monkeypatch):
    from custom.study import space

    usage = shutil.disk_usage(made)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    with pytest.raises(UserError, match=r"will take about 0\.\d GB on disk, 1 MB are free in"):
        study(made)
    assert not (made / "out/study.yaml").exists()


@pytest.mark.parametrize("done", [False, True])
def test_a_study_that_goes_on_needs_the_room_of_what_is_missing_alone(made, monkeypatch, done):
    from custom.study import __main__ as module
    from custom.study import space

    study(made)
    usage = shutil.disk_usage(made)
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: usage._replace(free=10**6))
    monkeypatch.setattr(module.Runner, "done", lambda *_: done)
    monkeypatch.setattr(module.Runner, "run", lambda *_: {})
    monkeypatch.setattr(module.verdict, "write", lambda _: made / "page")
    call = ["run", str(made / "out")]
    if done:
        assert module.main(call) == 0
    else:
        with raises(StudyError, "will take about", "GB on disk", f"1 MB are free in {made / 'out'}", "Free some"):
            module.main(call)


@pytest.mark.parametrize(
    ("gpu", "free", "side"), [(True, 80e9, 384), (True, 5e9, 272), (True, 1e9, 192), (False, 0, 192)]
)
def test_a_gpu_with_memory_for_it_is_given_a_finer_grid(made, monkeypatch, gpu, free, side):
    """Twice 192 pixels are four times the voxels: 16 pictures and their maps take 6.6 GB, those of 272 pixels 3.3 GB."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda *_: (free, 80e9))
    for k in range(SCANS):
        draw(made, k, side=512)
    plan.plan(made / "out", plan.Asked(made / "images", made / "labels", 1e7), lambda _: None)
    assert f"patch: [{side}, {side}]" in (made / "out/task.yaml").read_text(encoding="utf-8")


def test_a_grid_without_memory_is_not_said_to_be_left_out_for_lack_of_time(made, monkeypatch):
    def rooms(_probed: object, voxels: dict[float, float], _jobs: int) -> dict[float, float]:
        return {room: count for room, count in voxels.items() if room <= 0.5}

    monkeypatch.setattr(plan.space, "rooms_in_memory", rooms)
    plan.plan(made / "out", plan.Asked(made / "images", made / "labels", 1e6), lambda _: None)
    text = (made / "out/plan.md").read_text(encoding="utf-8")
    says(text, "of memory. A grid of more than 50% of the voxels", "lack of memory")
    assert "## What is left out for lack of time\n\nNothing." in text
