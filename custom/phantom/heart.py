"""What a scanner makes of the anatomy: sequence, texture, coil, noise, partial volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from .anatomy import Scene, add_chest, add_heart, draw_anatomy
from .form import Form, Patient, Scanner
from .grid import Array, Grid, Random, smooth_noise


def draw_contrast(random: Random, sequence: str) -> dict[str, float]:
    """Grey value of each tissue, about 0 to 1, as a sequence shows it."""
    u = random.uniform
    if sequence == "cine":
        blood = u(0.5, 1.0)
        muscle = blood * u(0.2, 0.7)
        return {
            "lung": u(0.02, 0.3), "vessel": u(0.25, 0.8), "fat": u(0.2, 1.0), "liver": u(0.1, 0.8),
            "chest muscle": u(0.15, 0.7), "gut wall": u(0.2, 0.8), "gut": u(0.05, 0.95), "left blood": blood,
            "right blood": blood * u(0.7, 1.25), "muscle": muscle, "scar": muscle * u(0.8, 1.4),
            "right wall": muscle * u(0.8, 1.4),
        }  # fmt: skip
    values = {"lung": u(0.02, 0.12), "vessel": u(0.25, 0.8), "fat": u(0.3, 1.0), "liver": u(0.15, 0.6)}
    values |= {"chest muscle": u(0.15, 0.45), "gut wall": u(0.2, 0.6), "gut": u(0.05, 0.95)}
    blood, muscle = {
        "bright blood": lambda: (u(0.75, 1.0), u(0.2, 0.35)),
        "dark blood": lambda: (u(0.1, 0.2), u(0.45, 0.7)),
        "late": lambda: (u(0.6, 0.9), u(0.05, 0.15)),
        "first pass": lambda: (u(0.35, 0.55), u(0.15, 0.25)),
    }[sequence]()
    ratio = u(1.3, 2.0) if sequence == "first pass" else u(0.85, 1.15)
    scar = {"late": u(0.6, 0.95), "dark blood": u(0.5, 0.7)}.get(sequence, muscle * u(0.8, 1.3))
    values |= {"left blood": blood, "right blood": blood * ratio, "muscle": muscle, "scar": scar}
    return values | {"right wall": muscle * u(0.9, 1.3)}


TEXTURE = {"lung": 0.5, "liver": 0.8, "chest muscle": 1.0, "gut": 1.6, "gut wall": 0.8, "fat": 0.7, "vessel": 0.3}
TEXTURE |= {"left blood": 0.3, "right blood": 0.6, "right wall": 0.6, "muscle": 0.6, "scar": 0.6}


def expose(
    tissues: Mapping[str, Array], values: Mapping[str, float], grid: Grid, scanner: Scanner, random: Random
) -> tuple[Array, dict[str, float]]:
    """The scan of a scene: texture, gamma, blur, ghost, coil, Rician noise; int16 ``(X, Y, Z)`` in scanner units; and how
    much of each there is."""
    size, spacing = grid.size, grid.spacing_mm
    picture, roughness = (sum(of[name] * cover for name, cover in tissues.items()) for of in (values, TEXTURE))
    fine, coarse = (smooth_noise(random, size, tuple(mm / s for s in spacing)) for mm in (1.5, 5.0))
    texture = random.uniform(*scanner.texture)
    picture = picture * np.clip(1 + texture * roughness * (fine + coarse), 0.1, None)
    gamma = random.uniform(*scanner.gamma)
    picture = picture**gamma
    blur, ghost = random.uniform(*scanner.blur), 0.0
    picture = gaussian_filter(picture, (blur, blur, 0), truncate=2.5)
    if random.random() < scanner.ghosts:  # breathing: a faint copy along the phase direction
        ghost = random.uniform(*scanner.ghost)
        picture = picture + ghost * np.roll(picture, random.integers(10, size[1] // 2), axis=1)
    picture = picture * coil(size, random)
    sigma = random.uniform(*scanner.noise)
    noise = random.standard_normal((2, *size), dtype=np.float32) * sigma
    picture = np.hypot(picture + noise[0], noise[1]) * np.exp(random.uniform(np.log(150), np.log(2000)))
    amounts = {"texture": texture, "gamma": gamma, "blur": blur, "ghost": ghost, "noise": sigma}
    return np.clip(np.rint(picture), 0, 32767).astype(np.int16), amounts


def coil(size: tuple[int, ...], random: Random) -> Array:
    """A smooth bias field, exp of a plane and of a very smooth noise, about 0.5 to 2."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij", sparse=True)
    tilt = sum(random.uniform(-0.3, 0.3) * axis for axis in axes)
    wave = zoom(random.standard_normal((4, 4, 2)).astype(np.float32), [n / m for n, m in zip(size, (4, 4, 2))], order=1)  # noqa: B905
    return np.exp(tilt + 0.12 * wave)


def draw_heart(form: Form, random: Random) -> Patient:
    """One patient: images int16 ``(X, Y, Z)``."""
    plane = random.uniform(*form.plane_mm)
    spacing = (plane, plane, random.uniform(*form.slice_mm))
    stack = form.thick > 1
    size = (form.size[0], form.size[1], form.size[2] + (int(random.integers(-1, 3)) if stack else 0))
    grid = Grid(size, spacing, form.thick)
    heart = draw_anatomy(random, size[2] * spacing[2], size[0] * spacing[0], form.kinds)
    scene = Scene(grid)
    neighbours = add_chest(scene, heart, random)
    add_heart(scene, heart, random, jitter_mm=0.8 if stack else 0.0)
    attributes: dict[str, float | str] = {
        "disease": heart.disease,
        "radius, mm": heart.radius_mm,
        "wall, mm": heart.wall_mm,
        "right ventricle, mm": heart.right_depth_mm,
        "off centre, mm": float(np.hypot(*heart.centre_mm)),
        "direction": heart.right_angle,
        "like neighbours": neighbours,
        "voxel, mm": plane,
    }
    images, tissues, sequences = {}, scene.tissues(), form.scanner.sequences
    for modality in form.modalities:
        sequence = str(random.choice(list(sequences), p=list(sequences.values())))
        values = hide(draw_contrast(random, sequence), modality, random)
        images[modality], amounts = expose(tissues, values, grid, form.scanner, random)
        found: dict[str, float | str] = {
            "sequence": sequence,
            "muscle to blood": values["muscle"] / values["left blood"],
            "right to left blood": values["right blood"] / values["left blood"],
            "lung to muscle": values["lung"] / values["muscle"],
            **amounts,
        }
        attributes |= {f"{modality} {name}".strip(): value for name, value in found.items()}
    return Patient(images, scene.label(), spacing, attributes)


def hide(values: dict[str, float], modality: str, random: Random) -> dict[str, float]:
    """What one of two modalities shows poorly: the first the wall of the left ventricle, the second the right one."""
    u, values = random.uniform, dict(values)
    if modality == "first":
        values["muscle"] = values["left blood"] * u(0.8, 0.95)
    elif modality == "second":
        values["right blood"] = values["right wall"] = values["fat"] * u(0.7, 1.0)
    return values
