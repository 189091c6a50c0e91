"""Films in, findings and their places out: in Python the `Classifier`, and a command over files, folders and DICOM.

    python -m chexjax.predict --checkpoint=WORKDIR FILE_OR_FOLDER... --out=DIR

In DIR: `predictions.csv` (`Image Index`, then the findings), `boxes.csv`, `overlays/`, and `index.html`, which sorts
the films by finding. A film that cannot be read is a row of `errors.csv`; the rest goes on, and the exit status is 1.
Nothing of a DICOM header but what its pixels need is read. Text that is burnt into the pixels stays there.
"""

import csv
import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image
from scipy.special import logit

from chexjax.data import dicom
from chexjax.data.augment import normalize
from chexjax.data.images import SUFFIXES, check_size
from chexjax.data.recipe import Recipe, clean_films, recipe_of, shrink
from chexjax.devices import at_precision, find_devices
from chexjax.errors import ConfigError, DataError, command, fail, first_ten, printable, printable_lines
from chexjax.explain import cam, overlay
from chexjax.explain.gallery import Card, gallery
from chexjax.explain.maps import MapBox, average_maps, boxes_on_film, heat
from chexjax.files import cell, local_path, whole, write_whole
from chexjax.findings import FILM, RADIOLOGY
from chexjax.formats import format_figure, format_name, format_threshold
from chexjax.models.network import ENSEMBLE
from chexjax.models.probability import probability_of
from chexjax.runtime import parse, progress_bar
from chexjax.workdir.restore import Restored, restore_best

BATCH: Final = 8
TRAIN_FIRST: Final = "python -m chexjax.main --config=configs/baseline.py --workdir=runs/first"

Film = str | Path | Image.Image | np.ndarray | jax.Array


@dataclass(frozen=True)
class Prediction:
    """What the networks say of one film.

    `film` is uint8 (height, width) as it was read, `cleaned` the same after the removal of bright artefacts, None where
    the networks were trained without it. `probabilities` and `thresholds` are float64 (findings,); a threshold that is
    not known is NaN. `maps` is float32 (h, w, findings). `findings` names them, in this order.
    """

    name: str
    film: np.ndarray
    cleaned: np.ndarray | None
    probabilities: np.ndarray
    thresholds: np.ndarray
    maps: np.ndarray
    findings: tuple[str, ...]

    @property
    def ranked(self) -> list[str]:
        """The findings by how far their odds lie above those of their threshold (of one half where it is unknown)."""
        margins = logit(np.clip(self.probabilities, 1e-9, 1 - 1e-9)) - logit(_known(self.thresholds))
        return [self.findings[k] for k in np.argsort(-margins, kind="stable")]

    @property
    def called(self) -> list[str]:
        """The findings at or above their threshold, in rank; none where no threshold is known."""
        return [finding for finding in self.ranked if self.probability(finding) >= self.threshold(finding)]

    def probability(self, finding: str) -> float:
        return float(self.probabilities[self.findings.index(finding)])

    def threshold(self, finding: str) -> float:
        """NaN where it is unknown."""
        return float(self.thresholds[self.findings.index(finding)])

    def map(self, finding: str) -> np.ndarray:
        """float32 (h, w), the finding's map as the networks give it."""
        return self.maps[..., self.findings.index(finding)]

    def heat(self, finding: str) -> np.ndarray:
        """float32 (height, width) in 0..1, the finding's map at the film's own size."""
        height, width = self.film.shape
        return heat(self.map(finding), width, height)

    def boxes(self, finding: str) -> list[MapBox]:
        """Where the finding's map is in the upper half of its range, in pixels of the film; none of a flat map.

        The first holds the map's peak: it is the box by which localisation is judged.
        """
        height, width = self.film.shape
        return boxes_on_film(self.map(finding), width, height)


class Classifier:
    """The networks of a workdir, applied to films of any kind as they were in training.

        for prediction in Classifier.from_checkpoint("runs/first").predict(["a.png", "b.dcm"]):
            print(prediction.name, prediction.called, prediction.boxes(prediction.ranked[0]))

    Films are cleaned, shrunk and normalised as the checkpoint's own config says. Of several networks the probabilities
    and the maps are averaged. Batches have one size, so the networks are compiled once; the cleaning once for each pair
    of powers of two that a film fits in.
    """

    def __init__(self, restored: Restored, thresholds: np.ndarray, maps: str = "cam", batch_size: int = BATCH):
        """See `from_checkpoint`. `thresholds` is float64 (findings,), NaN where unknown."""
        data = restored.config.data
        self.workdir, self.step = restored.workdir, restored.step
        self.findings = restored.findings
        self.recipe = recipe_of(data)
        self.batch_size, self.thresholds = batch_size, thresholds
        self._variables = jax.device_put(restored.variables)
        pairs = [(model, restored.variables[name]) for name, model in restored.models.items()]
        self.maps, method = cam.choose_maps(pairs, data.size, maps)

        def apply(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = normalize(images, data.mean, data.std)
            networks = [(model, variables[name]) for name, model in restored.models.items()]
            logits: list[Any] = [model.apply(own, x) for model, own in networks]
            return jnp.stack(logits), average_maps([method(model, own, x) for model, own in networks])

        self._apply = jax.jit(at_precision("highest", apply))

    @classmethod
    def from_checkpoint(cls, workdir: str | Path, maps: str = "cam", batch_size: int = BATCH) -> "Classifier":
        """The best checkpoint of a workdir.

        Args:
          workdir: of a run of `chexjax.main`, or a folder of imported weights.
          maps: one of `cam.METHODS`, or "fine", see `cam.choose_maps`.
          batch_size: films that go through the networks at once.

        Raises:
          CheckpointError: the workdir holds no checkpoint, or one that does not load.
          ConfigError: there are no such maps.
        """
        workdir = local_path(workdir, "the workdir")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        restored = restore_best(workdir)
        return cls(restored, read_thresholds(restored), maps, batch_size)

    def predict(self, films: Film | Iterable[Film]) -> list[Prediction]:
        """Probabilities, maps and boxes of films: paths (DICOM too), PIL images, uint8 arrays, or a mixture of them.

        Args:
          films: one or several. An array is one film: uint8 (height, width), or with 1, 3 or 4 channels last.

        Raises:
          DataError: a film cannot be read, or its grey levels are not 0 to 255 in 8 bits; tells what was seen.
        """
        several = [films] if isinstance(films, Film) else list(films)
        named = [(_name_of(film, place), as_film(film)) for place, film in enumerate(several)]
        return list(self.predict_named(named))

    def predict_named(self, films: Iterable[tuple[str, np.ndarray]]) -> Iterator[Prediction]:
        """The same, one by one, for (name, uint8 (height, width)) as `as_film` gives them."""
        films = iter(films)
        while batch := list(islice(films, self.batch_size)):
            cleaned = [clean_film(film, self.recipe) for _, film in batch] if self.recipe.clean else None
            images = np.zeros((self.batch_size, self.recipe.size, self.recipe.size, 1), np.uint8)
            for place, (_, film) in enumerate(batch):
                film = cleaned[place] if cleaned else film
                images[place, ..., 0] = shrink(film, self.recipe.size, self.recipe.enlarge)
            logits, maps = jax.device_get(self._apply(self._variables, images))
            probabilities = probability_of(logits).mean(axis=0)
            for place, (name, film) in enumerate(batch):
                yield Prediction(
                    name=name,
                    film=film,
                    cleaned=cleaned[place] if cleaned else None,
                    probabilities=probabilities[place],
                    thresholds=self.thresholds,
                    maps=maps[place],
                    findings=self.findings,
                )


def clean_film(film: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Removes bright artefacts as the preparation of the training films does; uint8 (height, width).

    The film is continued to powers of two by its last row and column, where the rule finds no edge: so there are few
    shapes to compile for, and the result is the same.
    """
    height, width = film.shape
    padding = [(0, max(512, 2 ** math.ceil(math.log2(size))) - size) for size in (height, width)]
    (padded,) = clean_films([np.pad(film, padding, mode="edge")], recipe, chunk=1)
    return padded[:height, :width]


def read_thresholds(restored: Restored) -> np.ndarray:
    """Youden's thresholds on the validation films, as the evaluation of this very checkpoint found them; else NaN."""
    name = ENSEMBLE if len(restored.models) > 1 else next(iter(restored.models))
    try:
        results = json.loads((restored.workdir / "metrics.json").read_text())
        found = results["networks"][name]["thresholds"] if results["step"] == restored.step else {}
        values = [found.get(finding, {}).get("youden") for finding in restored.findings]
        thresholds = np.array([math.nan if value is None else float(value) for value in values], np.float64)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        thresholds = np.full(len(restored.findings), math.nan)
    return np.where((thresholds >= 0) & (thresholds <= 1), thresholds, math.nan)


def _known(thresholds: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isnan(thresholds), 0.5, thresholds), 1e-9, 1 - 1e-9)


# Films of any kind


def as_film(film: Film) -> np.ndarray:
    """A path, a PIL image or an array as uint8 (height, width).

    Raises:
      DataError: it cannot be read, or its pixels are not grey levels of 8 bits; tells what was seen.
    """
    if isinstance(film, str | Path):
        path = Path(film).expanduser()
        pixels = dicom.read_film(path)
        where = f"{printable(path)}: "
    elif isinstance(film, Image.Image):
        where = "a PIL image: "
        if film.mode not in ("L", "LA", "P", "RGB", "RGBA"):
            raise DataError(f"a PIL image of mode {film.mode!r}; a film has 8 bits a pixel: convert it to 'L'")
        check_size("a PIL image", *film.size)
        try:
            pixels = np.asarray(film.convert("L"))
        except (OSError, SyntaxError, ValueError) as error:  # its file is only now read
            raise DataError(f"a PIL image: cannot be read ({error})") from error
    elif isinstance(film, np.ndarray | jax.Array):
        where = "an array: "
        pixels = _grey_of(np.asarray(film))
    else:
        raise DataError(f"{type(film).__name__} is no film; a film is a path, a PIL image or a uint8 array")
    low, high = int(pixels.min()), int(pixels.max())
    if high <= 1:
        raise DataError(f"{where}grey levels from {low} to {high}; a film's go from 0 to 255 (was it scaled to 0..1?)")
    if low == high:
        raise DataError(f"{where}every pixel has grey level {low}; there is no film to be seen")
    return pixels


def _grey_of(array: np.ndarray) -> np.ndarray:
    """An array as uint8 (height, width); channels become grey as Pillow weighs them."""
    if array.dtype != np.uint8:
        numeric = array.size and np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complex128)
        seen = f" with values from {np.nanmin(array):g} to {np.nanmax(array):g}" if numeric else ""
        raise DataError(
            f"an array of {array.dtype}{seen}; a film is uint8, grey levels from 0 to 255\n"
            "window it to 8 bits first; normalisation belongs to the networks"
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.size:
        return np.asarray(Image.fromarray(array).convert("L"))
    if array.ndim != 2 or not array.size:
        raise DataError(
            f"an array of shape {array.shape} is no film; a film is (height, width), or with 1, 3 or 4 channels last\n"
            "several films are given as a list"
        )
    return array


def _name_of(film: Any, place: int) -> str:
    path = film if isinstance(film, str | Path) else getattr(film, "filename", "") or f"film {place + 1}"
    return printable(Path(path).name)


# The command


def find_files(patterns: Sequence[str]) -> dict[str, Path]:
    """The films that files, folders and globs mean, by the name they get in the tables.

    In folders, at any depth: PNG, JPEG and DICOM by suffix, and DICOM files without one. What is named itself is
    taken whatever it is, also where it does not exist: reading it will say so. Links to folders are not followed, but
    where one is named itself. The name is the file's; where two files share it, the path; what does not print is shown
    as its code.

    Raises:
      ConfigError: that is no file at all.
    """
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        for match in [path] if path.exists() else _matching(path) or [path]:
            paths += filter(looks_like_film, sorted(match.rglob("*"))) if match.is_dir() else [match]
    paths = list(dict.fromkeys(paths))
    if not paths:
        raise ConfigError(f"no films in {', '.join(patterns)}: looked for {', '.join((*SUFFIXES, *dicom.SUFFIXES))}")
    counts = Counter(path.name for path in paths)
    named: dict[str, Path] = {}
    for path in paths:
        name = base = printable(path.name if counts[path.name] == 1 else path.as_posix())
        number = 1
        while name in named:
            number += 1
            name = f"{base} ({number})"
        named[name] = path
    return named


def _matching(pattern: Path) -> list[Path]:
    """The files of a glob. Unlike glob's, pathlib's `**` follows no links to folders: two in a ring are 2**40 paths."""
    try:
        return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
    except ValueError:  # no glob, but a name with `**` in it
        return []


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Refuses to write where films are read: overlays would be taken for films the next time, or fall on one.

    Raises:
      ConfigError: `out` lies in one of the folders, or a film lies in its overlays.
    """
    place = Path(os.path.realpath(out))
    for path in map(os.path.realpath, inputs):
        if place.is_relative_to(path) or Path(path).is_relative_to(place / "overlays"):
            raise ConfigError(f"--out={out} lies among the films, in {path}; choose a folder of its own")


def looks_like_film(path: Path) -> bool:
    """PNG, JPEG and DICOM by suffix, and DICOM files without one."""
    if not path.is_file() or path.name.startswith("."):
        return False
    return path.suffix.lower() in (*SUFFIXES, *dicom.SUFFIXES) or (not path.suffix and dicom.is_dicom(path))


def predict_files(
    classifier: Classifier, files: dict[str, Path], out: Path, overlays: int = 3, progress: bool = True
) -> dict[str, str]:
    """Predicts all files and writes the tables, the overlays and the page; returns what went wrong, by name.

    The tables and the page get their names when all films are through: one that is there is whole.
    """
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    errors: dict[str, str] = {}
    cards: list[Card] = []
    used: set[str] = set()
    of_findings: set[str] = set()
    stems = {finding: _stem(finding, of_findings) for finding in classifier.findings}

    def read(item: tuple[str, Path]) -> tuple[str, np.ndarray] | tuple[str, DataError]:
        name, path = item
        try:
            return name, as_film(path)
        except (DataError, OSError, MemoryError) as error:
            return name, error if isinstance(error, DataError) else DataError(f"{name}: {type(error).__name__}")

    with (
        whole(out / "predictions.csv") as predictions_path,
        whole(out / "boxes.csv") as boxes_path,
        ThreadPoolExecutor() as pool,
        predictions_path.open("w", newline="", encoding="utf-8") as predictions_file,
        boxes_path.open("w", newline="", encoding="utf-8") as boxes_file,
        progress_bar(len(files), "predicting", shown=progress) as bar,
    ):
        rows, boxes = csv.writer(predictions_file), csv.writer(boxes_file)
        rows.writerow([FILM, *map(cell, classifier.findings)])
        boxes.writerow([FILM, "Finding Label", "x", "y", "w", "h", "probability", "threshold"])
        items, size = list(files.items()), classifier.batch_size
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        ahead = [pool.submit(read, item) for item in chunks[0]]
        for turn in range(len(chunks)):
            results = [future.result() for future in ahead]
            # The next chunk is read while the networks see this one.
            ahead = [pool.submit(read, item) for chunk in chunks[turn + 1 : turn + 2] for item in chunk]
            good = [(name, film) for name, film in results if isinstance(film, np.ndarray)]
            errors |= {name: str(film) for name, film in results if isinstance(film, DataError)}
            found = list(classifier.predict_named(good))
            drawings = []
            for prediction in found:
                rows.writerow([cell(prediction.name), *map(repr, prediction.probabilities.tolist())])
                boxes.writerows(_box_rows(prediction))
                shown = (prediction.called or prediction.ranked[:1])[:overlays]
                stem = _stem(prediction.name, used)
                pictures = [(finding, f"overlays/{stem}-{stems[finding]}.png") for finding in shown]
                drawings += [(prediction, finding, out / path) for finding, path in pictures]
                thresholds = tuple(None if math.isnan(t) else float(t) for t in prediction.thresholds)
                cards.append(
                    Card(prediction.name, tuple(pictures), tuple(prediction.probabilities.tolist()), thresholds)
                )
            list(pool.map(lambda drawing: draw(*drawing), drawings))
            bar.update(len(results))
    note = (
        f"{len(cards)} films, checkpoint of step {classifier.step}, maps: {classifier.maps}. "
        + ("" if np.isfinite(classifier.thresholds).any() else NO_THRESHOLDS + ". ")
        + "Not a medical device."
    )
    page = gallery(cards, classifier.findings, "chexjax: findings and their places", note, RADIOLOGY)
    write_whole(out / "index.html", page)
    _write_errors(out / "errors.csv", errors)
    return errors


NO_THRESHOLDS: Final = "no thresholds are known: the evaluation of a run finds them (chexjax.main --mode=evaluate)"


def draw(prediction: Prediction, finding: str, path: Path) -> None:
    """Writes the overlay of one finding."""
    probability, threshold = format_figure(prediction.probability(finding), 3), prediction.threshold(finding)
    title = f"{format_name(finding)} {probability} (threshold {format_threshold(threshold)})   {prediction.name}"
    picture = overlay.annotate(prediction.film, prediction.map(finding), prediction.boxes(finding), title)
    picture.save(path, format="PNG")


def _box_rows(prediction: Prediction) -> Iterator[list[Any]]:
    """A row a box of the findings that were called."""
    for finding in prediction.called:
        figures = [f"{prediction.probability(finding):.9g}", f"{prediction.threshold(finding):.9g}"]
        for box in prediction.boxes(finding):
            place = [box.left, box.top, box.width, box.height]
            yield [cell(prediction.name), cell(finding), *place, *figures]


def _stem(name: str, used: set[str]) -> str:
    """A file name of plain characters, that no other film (or finding) has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".")[:120] or "film"
    stem, number = plain, 1
    while stem.lower() in used:
        number += 1
        stem = f"{plain}-{number}"
    used.add(stem.lower())
    return stem


def _write_errors(path: Path, errors: dict[str, str]) -> None:
    """`errors.csv`; none where nothing went wrong, also not that of an earlier run."""
    path.unlink(missing_ok=True)
    if errors:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["Image Index", "error"])
            table.writerows([cell(name), cell(reason)] for name, reason in errors.items())


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir of a training run, or imported weights.", flag_values=values)
    flags.DEFINE_string("out", None, "Where the tables, the overlays and the page go.", flag_values=values)
    flags.DEFINE_string("maps", "cam", f"One of {', '.join((*cam.METHODS, cam.FINE))}.", flag_values=values)
    flags.DEFINE_integer("batch_size", BATCH, "Films at once.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("overlays", 3, "At most so many findings are drawn a film.", lower_bound=1, flag_values=values)
    rest = parse(sys.argv, values, __doc__)
    if not rest or not values.out:
        raise ConfigError("usage: python -m chexjax.predict --checkpoint=WORKDIR FILE_OR_FOLDER... --out=DIR; --help")
    if not values.checkpoint:
        raise ConfigError(f"no --checkpoint=WORKDIR is given; one is made by\n{TRAIN_FIRST}")
    find_devices()
    files = find_files(rest)
    check_out(Path(values.out).expanduser(), [*map(Path, rest), *files.values()])
    classifier = Classifier.from_checkpoint(values.checkpoint, values.maps, values.batch_size)
    began = time.perf_counter()
    errors = predict_files(classifier, files, Path(values.out).expanduser(), values.overlays)
    seconds = time.perf_counter() - began
    if not np.isfinite(classifier.thresholds).any():
        print(NO_THRESHOLDS)
    count = len(files) - len(errors)
    print(f"{count} films in {seconds:.1f} s, {count / seconds:.1f} images/s with compilation: {values.out}/index.html")
    if errors:
        for reason in errors.values():
            print(printable_lines(reason), file=sys.stderr)
        fail(f"not read, and listed in {values.out}/errors.csv: {first_ten(list(errors))}")


if __name__ == "__main__":
    main()
