"""How films are prepared and where prepared ones are kept; shared by training, prediction and export."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from chexjax.configs.common import FIELDS
from chexjax.errors import ConfigError
from chexjax.runtime import cache_folder
from chexjax.scanline import remove_artifacts
from chexjax.scanline.rule import AXES

CHUNK: Final = 32  # films that are read, cleaned and shrunk together
AREA: Final = Image.Resampling.BOX
ENLARGE: Final = {"bicubic": Image.Resampling.BICUBIC, "area": AREA}


@dataclass(frozen=True)
class Recipe:
    """How films become records. A prepared set is found by these fields and the folder's content.

    Each field is one of `config.data`, too. `size` is the side of the square films in the records; `enlarge` is how a
    smaller film gets there, see `shrink`. `clean` removes bright artefacts at native resolution, by the five fields
    after it, which are arguments of `scanline.remove_artifacts`; `axes` is "rows", "columns", or both with a comma, in
    the order in which they are scanned. For the rest see `sources.nih.read_splits`.
    """

    size: int = 256
    enlarge: str = "bicubic"
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
        """The arguments of `scanline.remove_artifacts`, beside the films."""
        return {
            "threshold": self.threshold,
            "max_width": self.max_width,
            "edge_span": self.edge_span,
            "axes": tuple(AXES[name] for name in self.axes.split(",")),
            "spare_wide": self.spare_wide,
        }

    def check(self) -> None:
        """Refuses what `config.data` may not hold.

        Raises:
          ValueError: names the field, what it holds and what it may hold.
        """
        for name, value in asdict(self).items():
            if complaint := FIELDS["data"][name].complaint(value, {}):
                raise ValueError(f"{name} is {value!r}; {complaint}")

    def identity(self) -> dict[str, Any]:
        """The fields that distinguish two preparations of one folder.

        The path of the lists does not count, only their content; cleaning options do not count without `clean`. Fields
        added later are left out where they say what was done before them, so older sets are still found.
        """
        fields = asdict(self) | {"lists": ""}
        if not self.clean:
            fields |= {name: _FORMER[name] for name in CLEANING}
        return {name: value for name, value in fields.items() if name not in _LATER or value != _FORMER[name]}


CLEANING: Final = ("threshold", "max_width", "edge_span", "axes", "spare_wide")
# Of a config without the field: runs made before 0.2 enlarged by areas.
_FORMER: Final[dict[str, Any]] = {field.name: field.default for field in fields(Recipe)} | {"enlarge": "area"}
_LATER: Final = ("enlarge", "edge_span", "axes", "spare_wide")


def shrink(film: np.ndarray, size: int, enlarge: str = "bicubic") -> np.ndarray:
    """uint8 (height, width) -> uint8 (size, size); a longer side is shrunk by averaging areas, without aliasing.

    A shorter side is enlarged by `enlarge`, a key of `ENLARGE`: "bicubic" (Pillow's; Keys 1981, a = -1/2), or "area",
    which repeats pixels and is kept for networks that were trained so. Rows first, rounded to 8 bits, then columns: in
    a single call, Pillow 13 starts with the columns where the film is tall, which earlier versions never do.
    """
    image = Image.fromarray(film)
    for side, shape in enumerate([(size, film.shape[0]), (size, size)]):
        now = image.size[side]
        image = image if now == size else image.resize(shape, ENLARGE[enlarge] if now < size else AREA)
    return np.asarray(image) if film.shape != (size, size) else film


def clean_films(films: list[np.ndarray], recipe: Recipe, chunk: int = CHUNK) -> list[np.ndarray]:
    """Removes bright artefacts from at most `chunk` films of any shapes, one call per shape."""
    cleaned: dict[int, np.ndarray] = {}
    for shape in {film.shape for film in films}:
        rows = [row for row, film in enumerate(films) if film.shape == shape]
        # Always a full batch, so the kernel is compiled once per shape.
        batch = np.zeros((chunk, *shape), np.uint8)
        batch[: len(rows)] = [films[row] for row in rows]
        done = np.asarray(remove_artifacts(batch, **recipe.cleaning))
        cleaned |= dict(zip(rows, done, strict=False))
    return [cleaned[row] for row in range(len(films))]


def cache_of(config: ConfigDict) -> Path:
    """The folder for prepared and simulated films; `--out` of the command that prepares ahead."""
    return Path(config.cache).expanduser() if config.cache else cache_folder()


def prepared_below(cache: Path) -> Path:
    """The folder of prepared films in a cache; a cache may also be named by this folder itself."""
    return cache if cache.name == "prepared" else cache / "prepared"


def find_prepared(config: ConfigDict, digest: str) -> list[Path]:
    """The folders below the cache of `config.data` that hold the prepared set of that digest: one or none."""
    return sorted(prepared_below(cache_of(config)).glob(f"*/*-{digest}/*"))


def recipe_from_flags(given: dict[str, Any]) -> Recipe:
    """The recipe that a command's flags describe; `given`: fields and their values.

    Raises:
      ConfigError: a flag has a value that no recipe can have.
    """
    recipe = Recipe(**given)
    try:
        recipe.check()
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    return recipe


def recipe_of(config: ConfigDict) -> Recipe:
    """The recipe in `config.data`; a field missing there (in an old workdir) has the value of runs before it."""
    return Recipe(**{name: config.get(name, former) for name, former in _FORMER.items()})
