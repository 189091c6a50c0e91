"""Small films whose findings are a spot on the left, one on the right, and haze."""

from pathlib import Path

import numpy as np
from PIL import Image

FINDINGS = ("Left spot", "Right spot", "Haze")


def draw(path: Path, labels: np.ndarray, seed: int) -> None:
    """A film of 40 px with a spot on the left, one on the right, or haze."""
    film = np.random.default_rng(seed).integers(40, 80, (40, 40))
    film[10:20, 5:15] += 120 * int(labels[0])
    film[10:20, 25:35] += 120 * int(labels[1])
    film[25:] += 60 * int(labels[2])
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film.astype(np.uint8)).save(path)
