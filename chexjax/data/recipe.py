"""How films are prepared, and where prepared ones are kept: what training, prediction and export share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from chexjax.runtime import cache_folder
from chexjax.scanline import remove_artifacts

CHUNK: Final = 32  # films that are read, cleaned and shrunk together


@dataclass(frozen=True)
class Recipe:
    """How films become records. All of it, and what lies in the folder, decides which prepared set is found again.

    `size` is the side of the square films in the records; `clean` removes bright artefacts at native resolution, by
    `threshold` and `max_width` as `scanline.remove_artifacts` has them; for the rest see `sources.nih.read_splits`.
    """

    size: int = 256
    clean: bool = False
    threshold: int = 50
    max_width: int = 40
    split: str = "official"
    lists: str = ""
    val_fraction: float = 0.1
    split_seed: int = 0
    skip_unreadable: bool = False


def shrink(film: np.ndarray, size: int) -> np.ndarray:
    """uint8 (height, width) -> uint8 (size, size), by averaging areas, so that nothing aliases."""
    if film.shape == (size, size):
        return film
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.BOX))


def clean_films(films: list[np.ndarray], recipe: Recipe, chunk: int = CHUNK) -> list[np.ndarray]:
    """Removes bright artefacts from at most `chunk` films of any shapes, those of one shape in one call."""
    cleaned: dict[int, np.ndarray] = {}
    for shape in {film.shape for film in films}:
        places = [place for place, film in enumerate(films) if film.shape == shape]
        # A full batch each time: the kernel is then compiled once a shape.
        batch = np.zeros((chunk, *shape), np.uint8)
        batch[: len(places)] = [films[place] for place in places]
        done = np.asarray(remove_artifacts(batch, recipe.threshold, recipe.max_width))
        cleaned |= dict(zip(places, done, strict=False))
    return [cleaned[place] for place in range(len(films))]


def cache_of(config: ConfigDict) -> Path:
    """Where `config.data` has prepared and simulated films kept."""
    return Path(config.cache).expanduser() if config.cache else cache_folder()


def find_prepared(config: ConfigDict, digest: str) -> list[Path]:
    """The folders below the cache of `config.data` that hold the prepared set of that digest: one or none."""
    return sorted((cache_of(config) / "prepared").glob(f"*/*-{digest}/*"))


def recipe_of(config: ConfigDict) -> Recipe:
    """How `config.data` wants films to be prepared."""
    return Recipe(
        size=config.size,
        clean=config.clean,
        split=config.split,
        lists=config.lists,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        skip_unreadable=config.skip_unreadable,
    )
