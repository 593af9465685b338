"""A cohort that the project draws itself: seeded, files on disk, nothing downloaded.

``python -m custom.phantom 2d data/phantom_2d`` draws one form; :func:`ensure` does so once and then finds it again.

The hearts are short-axis views of a left ventricle (bullet), its muscle (ring) and a right ventricle (crescent) in a
chest with lungs, liver, vessels and a stomach. What differs between patients is what a few labels do not cover: disease
(shape), sequence (contrast, also its sign), position, neighbours that look alike, coil, noise. A patient is a function
of (seed, form, patient index) and of nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from .seeds import derive

logger = logging.getLogger(__name__)

CLASSES = ("background", "right ventricle", "myocardium", "left ventricle")
LESION_CLASSES = ("background", "lesion")
PARTS = ("labelled", "unlabelled", "validation", "test")
MODALITIES = ("first", "second")
STACK_PATIENTS = {"labelled": 4, "unlabelled": 40, "validation": 10, "test": 60}
PICTURE_PATIENTS = {"labelled": 8, "unlabelled": 80, "validation": 20, "test": 60}

Array = np.ndarray
Random = np.random.Generator


# ---------------------------------------------------------------------------------------------------------- the grid
@dataclass(frozen=True)
class Grid:
    """Where the voxels are, in mm from the middle of the field of view; axes broadcast to ``(X, Y, Z * thick)``.

    A slice is ``thick`` thin sheets whose mean is taken at the end: that is the partial volume along the last axis.
    In the plane it is the soft edge of :meth:`inside`, one voxel wide.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    thick: int

    def axes(self) -> tuple[Array, Array, Array]:
        """x ``(X, 1, 1)``, y ``(1, Y, 1)`` and z ``(1, 1, Z * thick)`` in mm."""
        counts = (self.size[0], self.size[1], self.size[2] * self.thick)
        steps = (self.spacing_mm[0], self.spacing_mm[1], self.spacing_mm[2] / self.thick)
        x, y, z = ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(counts, steps, strict=True))
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def inside(self, distance_mm: Array) -> Array:
        """Covered fraction of a voxel whose centre is ``distance_mm`` outside (negative: inside) an edge."""
        return np.clip(0.5 - distance_mm / self.spacing_mm[0], 0, 1).astype(np.float32)

    def slices(self, sheets: Array) -> Array:
        """Mean over the sheets of each slice: ``(X, Y, Z * thick)`` to ``(X, Y, Z)``."""
        full = np.broadcast_to(sheets, (*self.size[:2], self.size[2] * self.thick))
        return full.reshape(*self.size, self.thick).mean(axis=-1)


def smooth_noise(random: Random, size: tuple[int, ...], sigma: float | tuple[float, ...]) -> Array:
    """Gaussian noise of zero mean and unit deviation, smoothed over ``sigma`` voxels."""
    noise = gaussian_filter(random.standard_normal(size, dtype=np.float32), sigma, truncate=2.5, mode="wrap")
    return (noise - noise.mean()) / (noise.std() + 1e-6)


# --------------------------------------------------------------------------------------------------------- the heart
@dataclass(frozen=True)
class Anatomy:
    """One patient's heart; lengths in mm, angles in radians, ``t`` runs from 0 at the base to 1 at the apex."""

    radius_mm: float  # of the muscle's outer edge at the base
    wall_mm: float
    length_mm: float
    base_mm: float  # position of the base on the last axis
    centre_mm: tuple[float, float]
    tilt_mm: tuple[float, float]  # how far the apex lies from the base in the plane
    right_angle: float  # where the right ventricle lies
    right_depth_mm: float  # thickness of the crescent at the base
    right_width: float  # half opening angle of the crescent
    right_end: float  # t where the right ventricle ends
    right_skew: float
    flat_septum: float
    bumps: tuple[tuple[float, float], ...]  # (amplitude, phase) of the outline's harmonics 2, 3 and 4
    uneven_wall: tuple[float, float]  # (amplitude, phase)
    taper: float
    fat_mm: float
    scar: float  # bright part of the wall as a half angle; 0: none
    scar_angle: float


RIGHT_WALL_MM, THINNEST_WALL_MM = 3.5, 4.5
DISEASES = ("none", "dilated left", "thick wall", "dilated right", "infarct")


def draw_anatomy(random: Random, depth_mm: float, field_mm: float) -> Anatomy:
    """A heart of one of five kinds, at any place of a field ``field_mm`` wide and a stack ``depth_mm`` deep."""
    uniform = random.uniform
    disease = random.choice(DISEASES)
    radius, wall = uniform(25, 34), uniform(7, 10)
    right_depth, right_width, flat, scar = uniform(18, 27), uniform(0.9, 1.2), uniform(0, 0.06), 0.0
    if disease == "dilated left":
        radius, wall, right_depth = uniform(33, 39), uniform(5.5, 7.5), uniform(14, 20)
    elif disease == "thick wall":
        radius, wall = uniform(28, 37), uniform(13, 18)
    elif disease == "dilated right":
        radius, right_depth, right_width, flat = uniform(21, 28), uniform(28, 40), uniform(1.1, 1.4), uniform(0.1, 0.22)
    elif disease == "infarct":
        radius, scar = uniform(29, 38), uniform(0.5, 1.0)
    scale = uniform(0.9, 1.2)
    radius, wall, right_depth = radius * scale, wall * scale, right_depth * scale
    length = float(np.clip(radius * uniform(1.9, 2.6), 0.72 * depth_mm, 0.98 * depth_mm))
    angle = uniform(-np.pi, np.pi)
    off_centre = 0.4 * right_depth + uniform(0, 0.1 * field_mm)
    to_side = angle + np.pi + uniform(-0.8, 0.8)
    return Anatomy(
        radius_mm=radius,
        wall_mm=wall,
        length_mm=length,
        base_mm=-depth_mm / 2 + (depth_mm - length) * uniform(0.1, 0.9),
        centre_mm=(off_centre * np.cos(to_side), off_centre * np.sin(to_side)),
        tilt_mm=(uniform(-10, 10), uniform(-10, 10)),
        right_angle=angle,
        right_depth_mm=right_depth,
        right_width=right_width,
        right_end=uniform(0.65, 0.95),
        right_skew=uniform(-0.35, 0.35),
        flat_septum=flat,
        bumps=tuple((amplitude * uniform(0, 1), uniform(0, 2 * np.pi)) for amplitude in (0.12, 0.06, 0.04)),
        uneven_wall=(uniform(0, 0.35), uniform(0, 2 * np.pi)),
        taper=uniform(1.8, 3.2),
        fat_mm=uniform(0, 7),
        scar=scar,
        scar_angle=uniform(-np.pi, np.pi),
    )


def wrapped(angle: Array) -> Array:
    """The same angle in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@dataclass
class Scene:
    """What lies where: layers from the back to the front, and the fractions that the label is made of."""

    grid: Grid
    layers: list[tuple[str, slice, Array]] = field(default_factory=list)  # (tissue, columns of x, covered fraction)
    fractions: dict[str, Array] = field(default_factory=dict)  # class: covered fraction, as if the heart had no end
    # fraction of each sheet that lies between base and apex
    between: Array = field(default_factory=lambda: np.ones(1, np.float32))

    def add(self, tissue: str, cover: Array, columns: slice = slice(None)) -> None:
        self.layers.append((tissue, columns, cover))

    def tissues(self) -> dict[str, Array]:
        """What is seen of each tissue, ``(X, Y, Z)``, sum 1: a layer covers what lies behind it, lung is behind all."""
        full = (*self.grid.size[:2], self.grid.size[2] * self.grid.thick)
        free = np.ones(full, np.float32)
        seen = {tissue: np.zeros(full, np.float32) for tissue, *_ in self.layers}
        for tissue, columns, cover in reversed(self.layers):
            part = cover * free[columns]
            seen[tissue][columns] += part
            free[columns] -= part
        return {tissue: self.grid.slices(cover) for tissue, cover in (seen | {"lung": free}).items()}

    def label(self) -> Array:
        """The class that covers most of a voxel in slices mostly between base and apex, uint8 ``(X, Y, Z)``."""
        parts = np.stack([self.grid.slices(self.fractions[name]) for name in CLASSES[1:]])
        label = np.concatenate([1 - parts.sum(axis=0, keepdims=True), parts]).argmax(axis=0)
        return (label * (self.grid.slices(self.between) >= 0.5)).astype(np.uint8)


def add_heart(scene: Scene, heart: Anatomy, random: Random, jitter_mm: float) -> None:
    """Fat, right and left ventricle, papillary muscles, scar; above the base the atria, which are no ventricle.

    With r and the angle a around the left ventricle's axis, the outer edge is ``r (1 + bumps(a)) = R(t)``,
    ``R(t) = R0 sqrt(1 - t^taper)``, and the crescent reaches ``H(t) (1 - (a / width)^2)`` further.
    """
    grid, edge = scene.grid, scene.grid.spacing_mm[0]
    x, y, z = grid.axes()
    t = (z - heart.base_mm) / heart.length_mm
    # breath holds differ: each slice of a stack is shifted by itself, image and label alike
    shift = np.repeat(random.normal(0, jitter_mm, (2, grid.size[2])), grid.thick, axis=1).astype(np.float32)
    dx = x - (heart.centre_mm[0] + (t - 0.4) * heart.tilt_mm[0] + shift[0])
    dy = y - (heart.centre_mm[1] + (t - 0.4) * heart.tilt_mm[1] + shift[1])
    r, a = np.hypot(dx, dy), np.arctan2(dy, dx)
    to_right = wrapped(a - heart.right_angle)

    outline = 1 + sum(size * np.cos(k * a + phase) for k, (size, phase) in zip((2, 3, 4), heart.bumps, strict=True))
    outline = outline + heart.flat_septum * np.exp(-((to_right / 0.7) ** 2))
    down = np.clip(t, 0, 1)
    ventricle = grid_step(t * heart.length_mm, grid) * grid_step((1 - t) * heart.length_mm, grid)
    outer_mm = heart.radius_mm * np.sqrt(1 - down**heart.taper)
    to_outer = r * outline - outer_mm

    end = 1 - 1.1 * heart.wall_mm / heart.length_mm
    wall = heart.wall_mm * (1 + heart.uneven_wall[0] * np.cos(a + heart.uneven_wall[1]))
    if heart.scar:
        wall = wall * (1 - 0.35 * np.exp(-((wrapped(a - heart.scar_angle) / heart.scar) ** 2)))
    fill = np.sqrt(1 - np.clip(t / end, 0, 1) ** heart.taper)
    cavity_mm = np.minimum((heart.radius_mm - wall) * fill, outer_mm - THINNEST_WALL_MM)
    to_cavity = r * outline - np.maximum(cavity_mm, -edge)

    lobe = np.clip(1 - ((to_right + heart.right_skew * (1 - np.cos(to_right))) / heart.right_width) ** 2, 0, 1) ** 0.8
    depth = heart.right_depth_mm * np.sqrt(1 - np.clip(t / heart.right_end, 0, 1) ** 2) * lobe
    to_right_edge = r - (outer_mm / outline + depth - edge * np.clip(1 - depth / edge, 0, 1))

    left = grid.inside(to_outer)
    cavity = np.minimum(grid.inside(to_cavity), left)
    right = grid.inside(to_right_edge) * (1 - left)
    scene.fractions = {"right ventricle": right, "myocardium": left - cavity, "left ventricle": cavity}
    scene.between = ventricle
    left, cavity = left * ventricle, cavity * ventricle
    fat_mm = heart.fat_mm * (1 + 0.7 * np.cos(2 * a + heart.scar_angle)) * np.clip(3 * (1 - t), 0, 1)
    below_base = grid_step(z - heart.base_mm, grid)
    scene.add("fat", grid.inside(np.minimum(to_outer, to_right_edge - RIGHT_WALL_MM) - fat_mm) * below_base)
    add_atria(scene, heart, (dx, dy), 1 - below_base)
    scene.add("right wall", grid.inside(to_right_edge - RIGHT_WALL_MM) * ventricle * (depth > edge))
    scene.add("right blood", grid.inside(to_right_edge) * ventricle)
    scene.add("muscle", left)
    if heart.scar:
        scar = np.exp(-((wrapped(a - heart.scar_angle) / heart.scar) ** 4)) * (to_cavity < 0.55 * heart.wall_mm)
        scene.add("scar", left * scar.astype(np.float32))
    scene.add("left blood", cavity)
    for angle in heart.right_angle + np.array([2.0, -2.0]) + random.normal(0, 0.3, 2):  # papillary muscles
        reach = 0.62 * (heart.radius_mm - heart.wall_mm) * fill
        away = np.hypot(dx - reach * np.cos(angle), dy - reach * np.sin(angle))
        scene.add("muscle", grid.inside(away - random.uniform(0.08, 0.2) * heart.radius_mm * fill) * cavity)


def grid_step(along_mm: Array, grid: Grid) -> Array:
    """0 below, 1 above a plane across the last axis, soft over one sheet."""
    return np.clip(0.5 + along_mm / (grid.spacing_mm[2] / grid.thick), 0, 1).astype(np.float32)


def add_atria(scene: Scene, heart: Anatomy, offset: tuple[Array, Array], above: Array) -> None:
    """Two chambers and the aortic root where the ventricles were: alike in position and grey value, not in class."""
    if not above.any():
        return
    grid, size, angle = scene.grid, heart.radius_mm, heart.right_angle
    for tissue, reach, turn, radius in (
        ("left blood", 0.35, np.pi, 0.8),
        ("right blood", 1.3, 0.5, 0.65),
        ("right wall", 0.75, -0.5, 0.52),
        ("left blood", 0.75, -0.5, 0.42),
    ):
        away = np.hypot(
            offset[0] - reach * size * np.cos(angle + turn), (offset[1] - reach * size * np.sin(angle + turn)) * 1.2
        )
        scene.add(tissue, grid.inside(away - radius * size) * above)


# --------------------------------------------------------------------------------------------------------- the chest
def add_chest(scene: Scene, heart: Anatomy, random: Random) -> None:
    """Lung vessels, liver, chest wall, spine; then what a network may take for a heart: aorta, stomach, bowel."""
    grid, uniform = scene.grid, random.uniform
    x, y, z = grid.axes()
    x, y = x - heart.centre_mm[0], y - heart.centre_mm[1]
    side = float(random.choice((-1, 1)))
    front = heart.right_angle + side * uniform(0.2, 1.1)  # the chest wall is before the right ventricle
    below = front + side * float(np.pi / 2) + uniform(-0.3, 0.3)

    def behind(angle: float, far_mm: float | Array, wave_mm: float) -> Array:
        """Distance to a wavy plane that is ``far_mm`` away in the direction ``angle``."""
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return far_mm + wave_mm * np.sin(across / uniform(15, 40) + uniform(0, 6) + z / 60) - along

    for _ in range(random.integers(5, 30)):
        add_disc(scene, "vessel", (uniform(-80, 80), uniform(-80, 80)), uniform(1, 4), uniform(-0.4, 0.4))
    size = heart.radius_mm
    near_x, near_y = heart.centre_mm
    scene.add("liver", grid.inside(behind(below, uniform(0.85, 1.7) * size - 0.15 * z, uniform(0, 8))))
    wall_mm = size + 0.55 * heart.right_depth_mm + uniform(-2, 18)
    scene.add("fat", grid.inside(behind(front, wall_mm, 3)))
    scene.add("chest muscle", grid.inside(behind(front, wall_mm + uniform(3, 12), 3)))
    scene.add("fat", grid.inside(behind(front, wall_mm + uniform(16, 30), 2)))
    back = front + np.pi + uniform(-0.5, 0.5)
    for _ in range(random.integers(0, 3)):  # descending aorta, other large vessels
        turn, reach = back + uniform(-0.9, 0.9), size + uniform(10, 35)
        place, radius = (near_x + reach * np.cos(turn), near_y + reach * np.sin(turn)), uniform(6, 12)
        add_disc(scene, "right wall", place, radius + uniform(1, 3), 0.05)
        add_disc(scene, "left blood", place, radius, 0.05)
    for _ in range(random.integers(0, 3)):  # stomach, bowel: rings like the left ventricle
        turn, reach, radius = uniform(0, 2 * np.pi), size + uniform(25, 50), uniform(9, 24)
        place, lean = (near_x + reach * np.cos(turn), near_y + reach * np.sin(turn)), uniform(-0.2, 0.2)
        add_disc(scene, "gut wall", place, radius, lean)
        add_disc(scene, "gut", place, radius * uniform(0.45, 0.8), lean)


def add_disc(scene: Scene, tissue: str, place_mm: tuple[float, float], radius_mm: float, lean: float) -> None:
    """A tube around ``place_mm`` of the field, leaning by ``lean`` mm a mm of depth."""
    x, y, z = scene.grid.axes()
    reach = radius_mm + scene.grid.spacing_mm[0] + abs(lean) * z.max()
    near = np.flatnonzero(np.abs(x - place_mm[0]) <= reach)
    if near.size:
        columns = slice(near[0], near[-1] + 1)
        away = np.hypot(x[columns] - place_mm[0] - lean * z, y - place_mm[1] + 0.5 * lean * z)
        scene.add(tissue, scene.grid.inside(away - radius_mm), columns)


# ---------------------------------------------------------------------------------------------------- the appearance
SEQUENCES = {"bright blood": 0.4, "late": 0.25, "first pass": 0.2, "dark blood": 0.15}  # how many patients


def draw_contrast(random: Random, sequence: str) -> dict[str, float]:
    """Grey value of each tissue, about 0 to 1, as one of four sequences shows it."""
    u = random.uniform
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


def expose(tissues: Mapping[str, Array], values: Mapping[str, float], grid: Grid, random: Random) -> Array:
    """The scan of a scene: texture, gamma, blur, ghost, coil, Rician noise; int16 ``(X, Y, Z)`` in scanner units."""
    size, spacing = grid.size, grid.spacing_mm
    picture, roughness = (sum(of[name] * cover for name, cover in tissues.items()) for of in (values, TEXTURE))
    fine, coarse = (smooth_noise(random, size, tuple(mm / s for s in spacing)) for mm in (1.5, 5.0))
    amplitude = random.uniform(0.03, 0.1)
    picture = picture * np.clip(1 + amplitude * roughness * (fine + coarse), 0.1, None)
    picture = picture ** random.uniform(0.75, 1.3)
    blur = random.uniform(0.2, 0.8)
    picture = gaussian_filter(picture, (blur, blur, 0), truncate=2.5)
    if random.random() < 0.25:  # breathing: a faint copy along the phase direction
        picture = picture + random.uniform(0.04, 0.12) * np.roll(picture, random.integers(10, size[1] // 2), axis=1)
    picture = picture * coil(size, random)
    sigma = random.uniform(0.01, 0.04)
    noise = random.standard_normal((2, *size), dtype=np.float32) * sigma
    picture = np.hypot(picture + noise[0], noise[1]) * np.exp(random.uniform(np.log(150), np.log(2000)))
    return np.clip(np.rint(picture), 0, 32767).astype(np.int16)


def coil(size: tuple[int, ...], random: Random) -> Array:
    """A smooth bias field, exp of a plane and of a very smooth noise, about 0.5 to 2."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij", sparse=True)
    tilt = sum(random.uniform(-0.3, 0.3) * axis for axis in axes)
    wave = zoom(random.standard_normal((4, 4, 2)).astype(np.float32), [n / m for n, m in zip(size, (4, 4, 2))], order=1)  # noqa: B905
    return np.exp(tilt + 0.12 * wave)


def draw_heart(form: Form, random: Random) -> tuple[dict[str, Array], Array, tuple[float, ...]]:
    """One patient: ``({modality: int16 (X, Y, Z)}, uint8 (X, Y, Z), spacing in mm)``."""
    plane = random.uniform(*form.plane_mm)
    spacing = (plane, plane, random.uniform(*form.slice_mm))
    stack = form.thick > 1
    size = (form.size[0], form.size[1], form.size[2] + (int(random.integers(-1, 3)) if stack else 0))
    grid = Grid(size, spacing, form.thick)
    heart = draw_anatomy(random, size[2] * spacing[2], size[0] * spacing[0])
    scene = Scene(grid)
    add_chest(scene, heart, random)
    add_heart(scene, heart, random, jitter_mm=0.8 if stack else 0.0)
    images, tissues = {}, scene.tissues()
    for modality in form.modalities:
        values = draw_contrast(random, random.choice(list(SEQUENCES), p=list(SEQUENCES.values())))
        images[modality] = expose(tissues, hide(values, modality, random), grid, random)
    return images, scene.label(), spacing


def hide(values: dict[str, float], modality: str, random: Random) -> dict[str, float]:
    """What one of two modalities shows poorly: the first the wall of the left ventricle, the second the right one."""
    u, values = random.uniform, dict(values)
    if modality == "first":
        values["muscle"] = values["left blood"] * u(0.8, 0.95)
    elif modality == "second":
        values["right blood"] = values["right wall"] = values["fat"] * u(0.7, 1.0)
    return values


# ------------------------------------------------------------------------------------------------------- RGB pictures
def draw_picture(form: Form, random: Random) -> tuple[dict[str, Array], Array, tuple[float, ...]]:
    """One endoscopy-like picture: ``({"": uint8 (H, W, 3)}, uint8 (H, W) with 1 for the lesion, spacing in mm)``."""
    size, u = form.size[:2], random.uniform
    h, w = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in size), indexing="ij")
    lesion, height = draw_lesion(h, w, random)
    folds = np.zeros(size, np.float32)
    for turn in random.uniform(0, np.pi, 2):
        phase = u(3, 9) * (h * np.cos(turn) + w * np.sin(turn)) + 0.7 * smooth_noise(random, size, 12)
        folds += u(0.02, 0.14) * np.sin(phase + u(0, 6))
    relief = folds + u(0.25, 0.9) * height
    light = u(0, 2 * np.pi)
    slope = np.gradient(relief)
    shade = 1 + u(2, 6) * (slope[0] * np.cos(light) + slope[1] * np.sin(light))
    skin = np.array([u(0.65, 0.8), u(0.34, 0.46), u(0.25, 0.38)]) * u(0.85, 1.1)
    shift = lesion_colour(random)
    picture = skin * (1 + np.array([0.05, 0.1, 0.1]) * smooth_noise(random, size, u(4, 9))[..., None])
    vessels = np.exp(-((smooth_noise(random, size, u(2.5, 5)) / 0.12) ** 2))
    picture = picture * (1 - np.array([0.15, 0.4, 0.3]) * (u(0, 0.9) * vessels * (1 - 0.7 * lesion))[..., None])
    grain = 1 + u(0.02, 0.12) * smooth_noise(random, size, u(0.8, 2.0))
    picture = picture * (1 + lesion[..., None] * (shift * grain[..., None] - 1)) * shade[..., None]
    picture = add_clutter(picture, lesion, h, w, random)
    away = (h - u(-0.4, 0.4)) ** 2 + (w - u(-0.4, 0.4)) ** 2
    picture = picture * np.exp(-u(0.15, 0.6) * away)[..., None] + add_highlights(relief, shade, random)[..., None]
    picture = gaussian_filter(picture, (u(0.2, 0.9),) * 2 + (0,)) ** u(0.8, 1.25)
    picture = picture + random.normal(0, u(0.005, 0.03), picture.shape)
    return {"": np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)}, (lesion >= 0.5).astype(np.uint8), (1.0, 1.0)


def draw_lesion(h: Array, w: Array, random: Random) -> tuple[Array, Array]:
    """An outline of random harmonics: the covered fraction and a height, flat or bulging, both ``(H, W)``."""
    u = random.uniform
    dh, dw = h - u(-0.55, 0.55), w - u(-0.55, 0.55)
    turn, lean = u(0, np.pi), u(0.65, 1.0)
    along, across = dh * np.cos(turn) + dw * np.sin(turn), (dw * np.cos(turn) - dh * np.sin(turn)) / lean
    r, a = np.hypot(along, across), np.arctan2(across, along)
    radius = u(0.26, 0.5) * (1 + sum(u(0, 0.25) / k * np.cos(k * a + u(0, 6)) for k in (2, 3, 4, 5)))
    lesion = np.clip(0.5 - (r - radius) * h.shape[0] / 2, 0, 1)
    return lesion, np.sqrt(np.clip(1 - (r / radius) ** 2, 0, 1)) * u(0.15, 0.6)


def lesion_colour(random: Random) -> Array:
    """How a lesion multiplies red, green and blue: redder, paler, browner or almost not."""
    u = random.uniform
    return np.array(
        [
            (u(0.95, 1.1), u(0.55, 0.75), u(0.6, 0.8)),
            (u(1.05, 1.2), u(1.1, 1.4), u(1.1, 1.4)),
            (u(0.65, 0.85), u(0.65, 0.85), u(0.6, 0.8)),
            (u(0.95, 1.08), u(0.8, 0.9), u(0.85, 0.95)),
        ][random.choice(4, p=(0.45, 0.25, 0.2, 0.1))]
    )


def add_clutter(picture: Array, lesion: Array, h: Array, w: Array, random: Random) -> Array:
    """Lumen (behind the lesion), debris, bubbles and red spots: as round as a lesion, and none."""
    u = random.uniform
    kinds = {
        "lumen": (np.array([0.25, 0.2, 0.2]), (0.15, 0.4), 0.5),
        "debris": (np.array([1.05, 1.25, 0.6]), (0.04, 0.15), 0.1),
        "red spot": (np.array([1.0, 0.7, 0.75]), (0.04, 0.1), 0.3),
        "bubble": (np.array([1.3, 1.6, 1.6]), (0.05, 0.15), 0.1),
    }
    for name, count in (("lumen", 1), ("debris", 2), ("red spot", 2), ("bubble", 2)):
        colour, radii, soft = kinds[name]
        for _ in range(random.integers(0, count + 1)):
            radius = u(*radii)
            away = np.hypot(h - u(-1, 1), (w - u(-1, 1)) * u(0.7, 1.4)) / radius
            cover = np.exp(-(((away - 1) / 0.15) ** 2)) if name == "bubble" else np.clip((1 - away) / soft, 0, 1)
            cover = cover * (1 - lesion) if name == "lumen" else cover
            picture = picture * (1 + cover[..., None] * (colour - 1))
    return picture


def add_highlights(relief: Array, shade: Array, random: Random) -> Array:
    """Mirror reflections where the surface faces the light and is wet, ``(H, W)``."""
    wet = smooth_noise(random, relief.shape, 1.5) + 0.8 * (shade - 1) / (shade.std() + 1e-6)
    return np.clip(wet - random.uniform(2.2, 3.2), 0, 0.6) * 1.5


# ---------------------------------------------------------------------------------------------------- cohorts on disk
@dataclass(frozen=True)
class Form:
    """What differs between the forms: grid, modalities, how a patient is drawn and stored."""

    patients: Mapping[str, int]
    size: tuple[int, int, int]
    draw: Callable[[Form, Random], tuple[dict[str, Array], Array, tuple[float, ...]]]
    suffix: str = ".nii.gz"
    plane_mm: tuple[float, float] = (1.4, 1.75)
    slice_mm: tuple[float, float] = (7.0, 10.0)
    thick: int = 2  # sheets a slice
    modalities: tuple[str, ...] = ("",)


_FORMS = {
    "2d": Form(STACK_PATIENTS, (96, 96, 8), draw_heart),
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


def draw_patient(form: str, index: int, seed: int = 2023) -> tuple[dict[str, Array], Array, tuple[float, ...]]:
    """Patient ``index`` of a form: ``({modality: voxels}, label, spacing in mm)``; one modality is named ``""``."""
    spec = form_named(form)
    return spec.draw(spec, np.random.default_rng(derive(seed, "phantom", form, index)))


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
        images, label, spacing = draw_patient(form, index, seed)
        patient = f"p{index:03d}"
        names = {key: f"images/{patient}{'_' if key else ''}{key}{spec.suffix}" for key in images}
        label_name = f"labels{'_of_unlabelled' if part == 'unlabelled' else ''}/{patient}{spec.suffix}"
        for key, voxels in images.items():
            write(folder / names[key], voxels, spacing)
        write(folder / label_name, label, spacing)
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


def main() -> None:
    """``python -m custom.phantom FORM FOLDER``"""
    parser = argparse.ArgumentParser(description="Draw a phantom cohort and print the path of its data list.")
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=2023)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(ensure(options.form, options.folder, options.seed))


if __name__ == "__main__":
    main()
