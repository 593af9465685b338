"""The cohorts on disk: forms, patients, files."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..seeds import derive
from .form import CINE, MODALITIES, PARTS, PICTURE_PATIENTS, STACK_PATIENTS, Form, Patient
from .grid import Array
from .heart import draw_heart
from .picture import draw_picture

logger = logging.getLogger(__name__)


_FORMS = {
    "2d": Form({**STACK_PATIENTS, "labelled": 3}, (96, 96, 8), draw_heart, kinds=False, scanner=CINE),
    "unseen_contrast": Form(STACK_PATIENTS, (96, 96, 8), draw_heart, seed="2d"),
    "3d": Form(STACK_PATIENTS, (56, 56, 40), draw_heart, plane_mm=(2.4, 2.8), slice_mm=(2.4, 2.8), thick=1),
    "two_channels": Form(STACK_PATIENTS, (96, 96, 8), draw_heart, modalities=MODALITIES),
    "rgb": Form(PICTURE_PATIENTS, (112, 112, 3), draw_picture, suffix=".png"),
}
FORMS = tuple(_FORMS)


def form_named(name: str) -> Form:
    """The form of that name; an unknown one is a ValueError that names those there are."""
    if name not in _FORMS:
        raise ValueError(f"phantom form {name!r} is unknown. Choose one of {', '.join(FORMS)}.")
    return _FORMS[name]


def draw_patient(form: str, index: int, seed: int = 2023) -> Patient:
    """Patient ``index`` of a form."""
    spec = form_named(form)
    return spec.draw(spec, np.random.default_rng(derive(seed, "phantom", spec.seed or form, index)))


def write(path: Path, voxels: Array, spacing_mm: tuple[float, ...]) -> None:
    """NIfTI through nibabel, a picture through ITK."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        import itk

        itk.imwrite(itk.image_from_array(np.ascontiguousarray(voxels), is_vector=voxels.ndim == 3), str(path))
        return
    import nibabel

    image = nibabel.Nifti1Image(voxels, np.diag([*spacing_mm, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def draw(form: str, folder: Path, seed: int = 2023, patients: Mapping[str, int] | None = None) -> Path:
    """Draws a whole cohort into ``folder`` and returns the path of its data list.

    Args:
        form: one of :data:`FORMS`.
        folder: receives ``images/``, ``labels/``, ``labels_of_unlabelled/``, ``list.json`` and
            ``list_all_labelled.json``: the same cohort where every training patient is labelled, for the upper bound.
        seed: of the whole cohort.
        patients: how many in each of the four parts; by default the form's own numbers.

    Raises:
        ValueError: an unknown form or part.
    """
    from tqdm import tqdm

    spec, folder = form_named(form), Path(folder)
    counts = dict(spec.patients if patients is None else patients)
    if set(counts) - set(PARTS):
        raise ValueError(f"patients names the parts {sorted(counts)}; a cohort has {', '.join(PARTS)}")
    lists: dict[str, list[dict]] = {part: [] for part in PARTS}
    every = [part for part in PARTS for _ in range(counts.get(part, 0))]
    for index, part in enumerate(tqdm(every, desc=f"phantom {form}", disable=None, delay=2)):
        drawn = draw_patient(form, index, seed)
        patient = f"p{index:03d}"
        names = {key: f"images/{patient}{'_' if key else ''}{key}{spec.suffix}" for key in drawn.images}
        label_name = f"labels{'_of_unlabelled' if part == 'unlabelled' else ''}/{patient}{spec.suffix}"
        for key, voxels in drawn.images.items():
            write(folder / names[key], voxels, drawn.spacing_mm)
        write(folder / label_name, drawn.label, drawn.spacing_mm)
        lists[part].append({"patient": patient, "image": names.get("", names), "label": label_name})
    all_labelled = lists | {"labelled": lists["labelled"] + lists["unlabelled"], "unlabelled": []}
    few = lists | {"unlabelled": [{key: e[key] for key in ("patient", "image")} for e in lists["unlabelled"]]}
    for name, content in (("list_all_labelled.json", all_labelled), ("list.json", few)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    return folder / "list.json"


def ensure(form: str, folder: Path, seed: int = 2023, patients: Mapping[str, int] | None = None) -> Path:
    """The data list below ``folder``; draws the cohort when it is not there.

    It is drawn aside and renamed at the end: a killed drawing leaves no half cohort, and of two processes that draw
    at once the first to end wins.

    Raises:
        ValueError: an unknown form.
        FileExistsError: ``folder`` holds something else.
    """
    form_named(form)
    folder = Path(folder)
    if (folder / "list.json").exists():
        return folder / "list.json"
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds files but no list.json: no phantom. Name another folder, or empty it.")
    logger.info("drawing the phantom cohort %s (seed %d) into %s, once", form, seed, folder)
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        draw(form, aside, seed, patients)
        try:
            aside.rename(folder)
        except OSError:  # another process was faster: its cohort is the same
            if not (folder / "list.json").exists():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder / "list.json"
