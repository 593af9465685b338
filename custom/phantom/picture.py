"""Photographs of a lesion, in colour."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .form import Form, Patient
from .grid import Array, Random, smooth_noise


def draw_picture(form: Form, random: Random) -> Patient:
    """One endoscopy-like picture: uint8 ``(H, W, 3)``, and uint8 ``(H, W)`` with 1 for the lesion."""
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
    image = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    return Patient({"": image}, (lesion >= 0.5).astype(np.uint8), (1.0, 1.0), {})


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
