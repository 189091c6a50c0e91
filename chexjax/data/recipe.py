"""How films are prepared, and where prepared ones are kept: what training, prediction and export share."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from chexjax.runtime import cache_folder
from chexjax.scanline import remove_artifacts
from chexjax.scanline.rule import AXES, check_arguments

CHUNK: Final = 32  # films that are read, cleaned and shrunk together
MAX_SPAN: Final = 64  # pixels


@dataclass(frozen=True)
class Recipe:
    """How films become records. All of it, and what lies in the folder, decides which prepared set is found again.

    Each field is one of `config.data`, too. `size` is the side of the square films in the records. `clean` removes
    bright artefacts at native resolution, by the five fields after it, which are arguments of
    `scanline.remove_artifacts`; `axes` is "rows", "columns", or both with a comma, in the order in which they are
    scanned. For the rest see `sources.nih.read_splits`.
    """

    size: int = 256
    clean: bool = False
    threshold: int = 50
    max_width: int = 40
    edge_span: int = 1
    axes: str = "rows"
    spare_wide: bool = False
    split: str = "official"
    lists: str = ""
    val_fraction: float = 0.1
    split_seed: int = 0
    skip_unreadable: bool = False

    @property
    def cleaning(self) -> dict[str, Any]:
        """The arguments of `scanline.remove_artifacts`, beside the films.

        Raises:
          ValueError: `axes` names something else than rows and columns.
        """
        names = [name.strip() for name in self.axes.split(",")]
        if unknown := [name for name in names if name not in AXES]:
            raise ValueError(f"axes knows rows and columns, not {', '.join(unknown)}")
        return {
            "threshold": self.threshold,
            "max_width": self.max_width,
            "edge_span": self.edge_span,
            "axes": tuple(AXES[name] for name in names),
            "spare_wide": self.spare_wide,
        }

    def check(self) -> None:
        """Refuses a cleaning that `scanline.remove_artifacts` could not do.

        Raises:
          ValueError: names the field, what it holds and what it may hold.
        """
        options = {name: value for name, value in self.cleaning.items() if name != "spare_wide"}
        check_arguments(np.zeros((1, 1), np.uint8), **options)
        if self.edge_span > MAX_SPAN:  # the rule's program grows with it
            raise ValueError(f"edge_span must be at most {MAX_SPAN} pixels; got {self.edge_span}")

    def identity(self) -> dict[str, Any]:
        """What tells two preparations of one folder apart.

        Where the lists lie is no matter, only what they say; nor how films would be cleaned that are not. Fields that
        came later are left out at their defaults, so that the sets of before are found again.
        """
        told = asdict(self) | {"lists": ""}
        if not self.clean:
            told |= {name: _DEFAULTS[name] for name in CLEANING}
        return {name: value for name, value in told.items() if name not in _LATER or value != _DEFAULTS[name]}


CLEANING: Final = ("threshold", "max_width", "edge_span", "axes", "spare_wide")
_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(Recipe)}
_LATER: Final = ("edge_span", "axes", "spare_wide")


def shrink(film: np.ndarray, size: int) -> np.ndarray:
    """uint8 (height, width) -> uint8 (size, size), by averaging areas, so that nothing aliases.

    Rows first, rounded to 8 bits, then columns. In one call Pillow 13 does the columns of tall films first, earlier
    versions never: a grey level of difference in a third of the pixels.
    """
    if film.shape == (size, size):
        return film
    narrow = Image.fromarray(film).resize((size, film.shape[0]), Image.Resampling.BOX)
    return np.asarray(narrow.resize((size, size), Image.Resampling.BOX))


def clean_films(films: list[np.ndarray], recipe: Recipe, chunk: int = CHUNK) -> list[np.ndarray]:
    """Removes bright artefacts from at most `chunk` films of any shapes, those of one shape in one call."""
    cleaned: dict[int, np.ndarray] = {}
    for shape in {film.shape for film in films}:
        places = [place for place, film in enumerate(films) if film.shape == shape]
        # A full batch each time: the kernel is then compiled once a shape.
        batch = np.zeros((chunk, *shape), np.uint8)
        batch[: len(places)] = [films[place] for place in places]
        done = np.asarray(remove_artifacts(batch, **recipe.cleaning))
        cleaned |= dict(zip(places, done, strict=False))
    return [cleaned[place] for place in range(len(films))]


def cache_of(config: ConfigDict) -> Path:
    """Where `config.data` has prepared and simulated films kept; the command that prepares ahead calls it `--out`."""
    return Path(config.cache).expanduser() if config.cache else cache_folder()


def prepared_below(cache: Path) -> Path:
    """Where in a cache prepared films lie, whoever prepared them; a cache may be named by that very folder."""
    return cache if cache.name == "prepared" else cache / "prepared"


def find_prepared(config: ConfigDict, digest: str) -> list[Path]:
    """The folders below the cache of `config.data` that hold the prepared set of that digest: one or none."""
    return sorted(prepared_below(cache_of(config)).glob(f"*/*-{digest}/*"))


def recipe_of(config: ConfigDict) -> Recipe:
    """How `config.data` wants films to be prepared; a field that it lacks, as an old workdir's may, has its default."""
    return Recipe(**{name: config.get(name, default) for name, default in _DEFAULTS.items()})
