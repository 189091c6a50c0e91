"""Runs stored films through a stored network and compares the results with stored ones.

`stored/` holds simulated films, a ResNet-18 of a sixteenth of the width that was trained on such films, and its results
in float64 (`tests/self_test_files.py` makes them). The films take every step of `predict`: they are read, cleaned,
shrunk, normalised, classified, mapped, calibrated and judged.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import jax
import numpy as np
from scipy.special import logit

from chexjax.errors import CheckpointError, printable
from chexjax.predict import Classifier, Prediction
from chexjax.predict.classifier import read_thresholds
from chexjax.predict.films import as_judged
from chexjax.workdir.restore import Restored, restore_best

STORED: Final = Path(__file__).parent / "stored"
WORKDIR, FILMS, EXPECTED = "workdir", "films", "expected.npz"
BACKENDS: Final = ("cpu", "gpu", "tpu")

# The largest difference that passes. Grey levels and statuses are exact. Products of float32 are summed in another
# order on each processor, and this network's logits then differ by some 1e-6; a wrong network's by 0.1 and more.
TOLERANCES: Final[Mapping[str, float]] = {
    "cleaned films, grey levels": 0.0,
    "films as the network sees them, grey levels": 0.0,
    "logits": 1e-4,
    "maps": 1e-3,
    "calibrated probabilities": 1e-4,
    "distances from the training films": 1e-3,
    "statuses that differ": 0.0,
}


class Check(NamedTuple):
    """One comparison. `difference` is the largest one found; infinite if a value is NaN."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


def find_backends() -> dict[str, jax.Device]:
    """The first device of each backend that JAX finds."""
    found = {}
    for name in BACKENDS:
        with suppress(RuntimeError):  # how JAX says that there is none
            found[name] = jax.local_devices(backend=name)[0]
    return found


def read_films(folder: Path = STORED) -> dict[str, np.ndarray]:
    """The stored films by name, uint8 (height, width)."""
    return {path.name: as_judged(path).pixels for path in sorted((folder / FILMS).iterdir())}


def read_expected(films: Mapping[str, np.ndarray], folder: Path = STORED) -> dict[str, np.ndarray]:
    """What the network makes of the films, in their order; the keys are those of `compute`.

    Raises:
      CheckpointError: the file is not as it was written.
    """
    try:
        with np.load(folder / EXPECTED, allow_pickle=False) as file:
            found = dict(file)
        return found | {"cleaned": joined(films.values()) - found.pop("removed")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{printable(folder / EXPECTED)} cannot be read; install chexjax anew") from error


def restore(folder: Path = STORED) -> Restored:
    """The stored network.

    Raises:
      CheckpointError: it is not as it was written, or cannot be read.
    """
    return restore_best(folder / WORKDIR)


def compute(restored: Restored, films: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What this install makes of the films on JAX's default device.

    "cleaned" holds all cleaned films, one after the other; the stored file holds "removed" in its place, what cleaning
    takes off, which is mostly zeros.
    """
    classifier = Classifier(restored, read_thresholds(restored), batch_size=len(films))
    ready = [classifier.prepare(name, as_judged(film)) for name, film in films.items()]
    found: list[Prediction] = list(classifier.explain(ready))
    return {
        "cleaned": joined(film.film if film.cleaned is None else film.cleaned for film in found),
        "small": np.stack([film.small for film in ready]),
        "logits": logit(np.stack([film.uncalibrated for film in found])),
        "maps": np.stack([film.maps for film in found]),
        "probabilities": np.stack([film.probabilities for film in found]),
        "distances": np.array([film.distance for film in found]),
        "statuses": np.array([film.verdict.status for film in found]),
    }


def joined(films: Iterable[np.ndarray]) -> np.ndarray:
    """The pixels of films of any shape, one after the other."""
    return np.concatenate([film.ravel() for film in films])


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Iterator[Check]:
    """A `Check` for each entry of `TOLERANCES`."""
    keys = ("cleaned", "small", "logits", "maps", "probabilities", "distances")
    differences = [largest_difference(found[key], expected[key]) for key in keys]
    differences.append(float((found["statuses"] != expected["statuses"]).sum()))
    for (name, tolerance), difference in zip(TOLERANCES.items(), differences, strict=True):
        yield Check(name, difference, tolerance)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Infinite where the shapes differ, or a value is not a number."""
    if found.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    return difference if np.isfinite(difference) else float("inf")
