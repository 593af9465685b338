"""A heart in its chest: shapes, positions, neighbours that look alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .form import CLASSES
from .grid import Array, Grid, Random

RIGHT_WALL_MM, THINNEST_WALL_MM = 3.5, 4.5


@dataclass(frozen=True)
class Anatomy:
    """One patient's heart; lengths in mm, angles in radians, ``t`` runs from 0 at the base to 1 at the apex."""

    disease: str
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


DISEASES = ("none", "dilated left", "thick wall", "dilated right", "infarct")


def draw_kind(random: Random) -> tuple[str, float, float, float, float, float, float]:
    """One of five: its name, radius, wall, depth and width of the right ventricle, flatness of the septum, scar."""
    uniform, disease = random.uniform, str(random.choice(DISEASES))
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
    return disease, radius, wall, right_depth, right_width, flat, scar


def draw_anatomy(random: Random, depth_mm: float, field_mm: float, kinds: bool = True) -> Anatomy:
    """A heart at any place of a field ``field_mm`` wide and a stack ``depth_mm`` deep: of one of five kinds, or by degrees."""
    uniform = random.uniform
    if kinds:
        disease, radius, wall, right_depth, right_width, flat, scar = draw_kind(random)
    else:
        disease, radius, wall = "by degrees", uniform(24, 36), uniform(6.5, 12)
        right_depth, right_width, flat = uniform(15, 34), uniform(0.9, 1.35), uniform(0, 0.2)
        scar = uniform(0.5, 1.0) * (uniform(0, 1) < 0.25)
    scale = uniform(0.9, 1.2)
    radius, wall, right_depth = radius * scale, wall * scale, right_depth * scale
    length = float(np.clip(radius * uniform(1.9, 2.6), 0.72 * depth_mm, 0.98 * depth_mm))
    angle = uniform(-np.pi, np.pi)
    off_centre = 0.4 * right_depth + uniform(0, 0.1 * field_mm)
    to_side = angle + np.pi + uniform(-0.8, 0.8)
    return Anatomy(
        disease=disease,
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
    """Fat, right and left ventricle, papillary muscles, scar; above the base the atria, which are not ventricles.

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


def add_chest(scene: Scene, heart: Anatomy, random: Random) -> int:
    """Lung vessels, liver, chest wall, spine; then what a network may take for a heart: aorta, stomach, bowel. Returns how
    many there are of the last three."""
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
    vessels = int(random.integers(0, 3))
    for _ in range(vessels):  # descending aorta, other large vessels
        turn, reach = back + uniform(-0.9, 0.9), size + uniform(10, 35)
        place, radius = (near_x + reach * np.cos(turn), near_y + reach * np.sin(turn)), uniform(6, 12)
        add_disc(scene, "right wall", place, radius + uniform(1, 3), 0.05)
        add_disc(scene, "left blood", place, radius, 0.05)
    rings = int(random.integers(0, 3))
    for _ in range(rings):  # stomach, bowel: rings like the left ventricle
        turn, reach, radius = uniform(0, 2 * np.pi), size + uniform(25, 50), uniform(9, 24)
        place, lean = (near_x + reach * np.cos(turn), near_y + reach * np.sin(turn)), uniform(-0.2, 0.2)
        add_disc(scene, "gut wall", place, radius, lean)
        add_disc(scene, "gut", place, radius * uniform(0.45, 0.8), lean)
    return vessels + rings


def add_disc(scene: Scene, tissue: str, place_mm: tuple[float, float], radius_mm: float, lean: float) -> None:
    """A tube around ``place_mm`` of the field, leaning by ``lean`` mm a mm of depth."""
    x, y, z = scene.grid.axes()
    reach = radius_mm + scene.grid.spacing_mm[0] + abs(lean) * z.max()
    near = np.flatnonzero(np.abs(x - place_mm[0]) <= reach)
    if near.size:
        columns = slice(near[0], near[-1] + 1)
        away = np.hypot(x[columns] - place_mm[0] - lean * z, y - place_mm[1] + 0.5 * lean * z)
        scene.add(tissue, scene.grid.inside(away - radius_mm), columns)
