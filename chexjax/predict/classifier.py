"""The networks of a workdir, applied to films of any kind as they were in training."""

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.images import JudgedFilm
from chexjax.data.recipe import Recipe, clean_films, recipe_of, shrink
from chexjax.data.verdict import Verdict
from chexjax.devices import at_precision
from chexjax.errors import ConfigError
from chexjax.explain import cam
from chexjax.explain.evidence import BEST, read_evidence
from chexjax.explain.maps import MapBox, average_maps, boxes_on_film, heat, is_flat
from chexjax.files import local_path
from chexjax.models.network import ENSEMBLE
from chexjax.models.probability import probability_of
from chexjax.predict.films import Film, as_judged, name_of
from chexjax.trust.features import see
from chexjax.trust.gate import judge_pixels
from chexjax.trust.kept import read_trust
from chexjax.workdir.restore import Restored, restore_best
from chexjax.workdir.thresholds import validation_thresholds

BATCH: Final = 8
NO_THRESHOLDS: Final = "no thresholds are known: the evaluation of a run finds them (chexjax.main --mode=evaluate)"
NO_NUMBER: Final = Verdict("refused", ("the networks give no number for it",))
NO_CALIBRATION: Final = "the evaluation of a run fits it (chexjax.main --mode=evaluate)"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The networks' figures for one film.

    `probabilities` and `thresholds` are float64 (findings,); a threshold that is not known is NaN. `findings` names
    them, in this order. `uncalibrated` holds the probabilities before calibration. `verdict` says whether they can be
    trusted. `distance` measures how unlike the training films this one is; above 1 it is doubtful; NaN if the run kept
    no such measure.
    """

    name: str
    probabilities: np.ndarray
    uncalibrated: np.ndarray
    thresholds: np.ndarray
    findings: tuple[str, ...]
    verdict: Verdict = field(default_factory=Verdict)
    distance: float = math.nan

    @property
    def ranked(self) -> list[str]:
        """The findings, ordered by the ratio of their odds to those of their threshold (0.5 if unknown)."""
        odds = np.clip(self.probabilities, 1e-9, 1 - 1e-9), _known(self.thresholds)
        margins = np.subtract(*(np.log(p) - np.log1p(-p) for p in odds))
        return [self.findings[k] for k in np.argsort(-margins, kind="stable")]

    @property
    def called(self) -> list[str]:
        """The findings at or above their threshold, by rank; a finding without a threshold is never called."""
        return [finding for finding in self.ranked if self.probability(finding) >= self.threshold(finding)]

    def probability(self, finding: str) -> float:
        return float(self.probabilities[self.findings.index(finding)])

    def threshold(self, finding: str) -> float:
        """The finding's threshold; NaN if unknown."""
        return float(self.thresholds[self.findings.index(finding)])


@dataclass(frozen=True, kw_only=True)
class Prediction(Scores):
    """The networks' prediction for one film, with maps and boxes.

    `film` is uint8 (height, width) as read; `cleaned` is the same without bright artefacts, None if the networks were
    trained without cleaning. `maps` is float32 (h, w, findings).
    """

    film: np.ndarray
    cleaned: np.ndarray | None
    maps: np.ndarray

    def map(self, finding: str) -> np.ndarray:
        """The finding's map at the networks' resolution, float32 (h, w)."""
        return self.maps[..., self.findings.index(finding)]

    def is_flat(self, finding: str) -> bool:
        """Whether the finding's map is constant, such as an all-zero Grad-CAM, and so shows no location."""
        return is_flat(self.map(finding))

    def heat(self, finding: str) -> np.ndarray:
        """The finding's map at the film's size, float32 (height, width) in 0..1."""
        height, width = self.film.shape
        return heat(self.map(finding), width, height)

    def boxes(self, finding: str) -> list[MapBox]:
        """Boxes around the regions where the map is in the upper half of its range, in pixels of the film.

        The first contains the map's peak; localisation is evaluated by it. A flat map has no box.
        """
        height, width = self.film.shape
        return boxes_on_film(self.map(finding), width, height)


Seen = tuple[jax.Array, dict[str, jax.Array]]  # logits (networks, batch, findings), features by network


class Ready(NamedTuple):
    """A film prepared for the networks: `small` is uint8 (size, size); `cleaned` as in `Prediction`."""

    name: str
    film: np.ndarray
    cleaned: np.ndarray | None
    small: np.ndarray
    verdict: Verdict


class Classifier:
    """The networks of a workdir, applied to films of any kind as they were in training.

        for prediction in Classifier.from_checkpoint("runs/first").predict(["a.png", "b.dcm"]):
            print(prediction.name, prediction.called, prediction.boxes(prediction.ranked[0]))

    Films are cleaned, shrunk and normalised according to the checkpoint's config. Probabilities and maps of several
    networks are averaged. Probabilities and thresholds are calibrated if the run fitted a calibration. Batches have one
    size, so the networks are compiled once with maps and once without; cleaning is compiled once for each pair of
    powers of two that films fit in.
    """

    def __init__(
        self,
        restored: Restored,
        thresholds: np.ndarray,
        maps: str = BEST,
        batch_size: int = BATCH,
        raw: bool = False,
        prevalence: Mapping[str, float] | None = None,
    ) -> None:
        """See `from_checkpoint`. `thresholds` is float64 (findings,), of raw probabilities, NaN where unknown."""
        data = restored.config.data
        self.restored, self.workdir, self.step = restored, restored.workdir, restored.step
        self.findings = restored.findings
        self.recipe = recipe_of(data)
        self.batch_size = batch_size
        self._trust = read_trust(restored)
        self._calibration = None if raw else self._trust.calibrations.get(judged_as(restored))
        if prevalence is not None:
            if self._calibration is None:
                raise ConfigError(
                    "a prevalence changes calibrated probabilities, and there are none: "
                    + ("raw ones were asked for" if raw else NO_CALIBRATION)
                )
            self._calibration = self._calibration.at_prevalence(prevalence, self.findings)
        self.thresholds = self._calibrated(thresholds)
        self._variables = jax.device_put(restored.variables)
        pairs = [(model, restored.variables[name]) for name, model in restored.models.items()]
        self.evidence = read_evidence(restored)
        self.kind = self.evidence.best if maps == BEST else maps
        self.maps, method = cam.choose_maps(pairs, data.size, self.kind)

        def score(variables: Any, images: jax.Array) -> Seen:
            x = normalize(images, data.mean, data.std)
            seen = {name: see(model, variables[name], x) for name, model in restored.models.items()}
            features = {name: seen[name][1] for name in self._trust.domains if name in seen}
            return jnp.stack([logits for logits, _ in seen.values()]), features

        def apply(variables: Any, images: jax.Array) -> tuple[Seen, jax.Array]:
            x = normalize(images, data.mean, data.std)
            networks = [(model, variables[name]) for name, model in restored.models.items()]
            return score(variables, images), average_maps([method(model, own, x) for model, own in networks])

        self._score = jax.jit(at_precision("highest", score))
        self._apply = jax.jit(at_precision("highest", apply))

    @cached_property
    def identity(self) -> str:
        """A sha256 of everything that determines this classifier's predictions, except its maps."""
        curves = self._calibration and self._calibration.to_json()
        limits = {name: domain.limit for name, domain in self._trust.domains.items()}
        about = [self.restored.digest, list(self.restored.models), curves, limits]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()

    @property
    def map_notes(self) -> dict[str, str]:
        """Warnings about the maps of some findings, by finding: they did not point better than the film's centre."""
        notes = {finding: self.evidence.note(self.kind, finding) for finding in self.findings}
        return {finding: note for finding, note in notes.items() if note}

    @property
    def is_calibrated(self) -> bool:
        """Whether its probabilities are calibrated."""
        return self._calibration is not None

    @property
    def knows_thresholds(self) -> bool:
        """Whether any finding has a threshold, without which none is called."""
        return bool(np.isfinite(self.thresholds).any())

    @classmethod
    def from_checkpoint(
        cls,
        workdir: str | Path,
        maps: str = BEST,
        batch_size: int = BATCH,
        network: str = ENSEMBLE,
        raw: bool = False,
        prevalence: Mapping[str, float] | None = None,
    ) -> "Classifier":
        """The best checkpoint of a workdir.

        Args:
          workdir: of a run of `chexjax.main`, or a folder of imported weights.
          maps: one of `cam.METHODS`, or "fine", see `cam.choose_maps`; "best": what `chexjax.explain.check` found best,
            or "cam" if it was not run.
          batch_size: films per batch.
          network: one of the workdir's networks by name; "ensemble": all of them, averaged.
          raw: whether to skip the calibration that the run fitted on its validation films.
          prevalence: the share of films with a finding, by finding, at the films' site; other findings keep that of the
            validation films.

        Raises:
          CheckpointError: the workdir has no checkpoint, or it cannot be loaded.
          ConfigError: there are no such maps, or no such network; a prevalence without a calibration.
        """
        workdir = local_path(workdir, "the workdir")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        restored = choose_network(restore_best(workdir), network)
        return cls(restored, read_thresholds(restored), maps, batch_size, raw, prevalence)

    @overload  # an iterator is an iterable, too
    def predict(self, films: Iterator[Film]) -> Iterator[Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def predict(  # type: ignore[overload-overlap]
        self, films: Iterator[Film], probabilities_only: bool
    ) -> Iterator[Scores]: ...

    @overload
    def predict(self, films: Film | Iterable[Film]) -> list[Prediction]: ...

    @overload
    def predict(self, films: Film | Iterable[Film], probabilities_only: bool) -> list[Scores]: ...

    def predict(self, films: Any, probabilities_only: bool = False) -> Any:
        """Probabilities, maps and boxes of films: paths (DICOM too), PIL images, uint8 arrays, or a mixture of them.

        Args:
          films: one or several. An array is one film: uint8 (height, width), or with 1, 3 or 4 channels last; `bytes`
            are the content of a file.
          probabilities_only: computes no maps and keeps no films, so there are neither boxes nor pictures.

        Returns:
          A list. For an iterator, such as a generator or `map(Path, names)`, an iterator: films are then read one batch
          at a time, on demand, so memory does not limit their number.

        Raises:
          DataError: a film cannot be read, or its grey levels are not 0 to 255 in 8 bits; tells what was seen.
        """
        if isinstance(films, Iterator):
            return self._predict(films, probabilities_only)
        return list(self._predict([films] if isinstance(films, Film) else films, probabilities_only))

    def _predict(self, films: Iterable[Film], probabilities_only: bool) -> Iterator[Scores]:
        judged = ((name_of(film, index), as_judged(film)) for index, film in enumerate(films))
        ready = (self.prepare(name, film) for name, film in judged)
        return self.score(ready) if probabilities_only else self.explain(ready)

    def predict_named(self, films: Iterable[tuple[str, np.ndarray]]) -> Iterator[Prediction]:
        """The same, one by one, for (name, uint8 (height, width)) as `as_film` gives them."""
        return self.explain(self.prepare(name, JudgedFilm(film, Verdict())) for name, film in films)

    def at_batch_size(self, batch_size: int) -> "Classifier":
        """The same networks on the same device, for batches of another size; they are compiled for it on first use."""
        other = copy.copy(self)
        other.batch_size = batch_size
        return other

    def prepare(self, name: str, judged: JudgedFilm) -> Ready:
        """Cleans and shrinks a film like those in training; thread-safe."""
        film, verdict = judged.pixels, judged.verdict + judge_pixels(judged.pixels)
        cleaned = clean_film(film, self.recipe) if self.recipe.clean else None
        small = shrink(film if cleaned is None else cleaned, self.recipe.size, self.recipe.enlarge)
        return Ready(name, film, cleaned, small, verdict)

    def explain(self, films: Iterable[Ready]) -> Iterator[Prediction]:
        """Predictions, one batch at a time."""
        for batch, images in self._batches(films):
            seen, maps = jax.device_get(self._apply(self._variables, images))
            for index, scores in enumerate(self._scores(batch, seen)):
                film = batch[index]
                yield Prediction(**vars(scores), film=film.film, cleaned=film.cleaned, maps=maps[index])

    def score(self, films: Iterable[Ready]) -> Iterator[Scores]:
        """Probabilities alone, one batch at a time."""
        for batch, images in self._batches(films):
            yield from self._scores(batch, jax.device_get(self._score(self._variables, images)))

    def _batches(self, films: Iterable[Ready]) -> Iterator[tuple[list[Ready], np.ndarray]]:
        """Batches of films, each also as one array (batch_size, size, size, 1); the last is padded with black."""
        films = iter(films)
        while batch := list(islice(films, self.batch_size)):
            images = np.zeros((self.batch_size, self.recipe.size, self.recipe.size, 1), np.uint8)
            images[: len(batch), ..., 0] = [film.small for film in batch]
            yield batch, images

    def _scores(self, batch: Sequence[Ready], seen: Seen) -> Iterator[Scores]:
        logits, features = np.asarray(seen[0]), {name: np.asarray(array) for name, array in seen[1].items()}
        uncalibrated = probability_of(logits).mean(axis=0)
        probabilities = self._calibrated(uncalibrated)
        distances, verdicts = self._judge({name: array[: len(batch)] for name, array in features.items()}, len(batch))
        is_finite = np.isfinite(logits).all((0, 2))  # not of broken weights
        for k, film in enumerate(batch):
            yield Scores(
                name=film.name,
                probabilities=probabilities[k],
                uncalibrated=uncalibrated[k],
                thresholds=self.thresholds,
                findings=self.findings,
                verdict=film.verdict + verdicts[k] + (Verdict() if is_finite[k] else NO_NUMBER),
                distance=distances[k],
            )

    def _calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities if self._calibration is None else self._calibration.apply(probabilities)

    def _judge(self, features: dict[str, np.ndarray], films: int) -> tuple[list[float], list[Verdict]]:
        """Distances and verdicts from the features; of several networks, those with the largest distance."""
        distances, verdicts = [math.nan] * films, [Verdict()] * films
        for name, array in features.items():
            domain = self._trust.domains[name]
            for k, (score, verdict) in enumerate(zip(*domain.measure(array), strict=True)):
                distance = float(score / domain.limit)
                if (verdict.status != "ok", distance) > (verdicts[k].status != "ok", distances[k]) or math.isnan(
                    distances[k]
                ):
                    distances[k], verdicts[k] = distance, verdict
        return distances, verdicts


def judged_as(restored: Restored) -> str:
    """The name of these networks in the results of an evaluation."""
    return ENSEMBLE if len(restored.models) > 1 else next(iter(restored.models))


def choose_network(restored: Restored, name: str) -> Restored:
    """One network of several; all of them for "ensemble".

    Raises:
      ConfigError: no network has that name.
    """
    if name == ENSEMBLE:
        return restored
    if name not in restored.models:
        names = ", ".join([*restored.models, ENSEMBLE])
        raise ConfigError(f"{restored.workdir} has no network {name!r}; there are {names}")
    return dataclasses.replace(
        restored, models={name: restored.models[name]}, variables={name: restored.variables[name]}
    )


def clean_film(film: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Removes bright artefacts as the preparation of the training films does; uint8 (height, width).

    The film is padded to powers of two with its last row and column, where the rule finds no edge: the result is the
    same, and there are few shapes to compile for.
    """
    height, width = film.shape
    padding = [(0, max(512, 2 ** math.ceil(math.log2(size))) - size) for size in (height, width)]
    (padded,) = clean_films([np.pad(film, padding, mode="edge")], recipe, chunk=1)
    return padded[:height, :width]


def read_thresholds(restored: Restored) -> np.ndarray:
    """Youden's thresholds on the validation films, from the evaluation of this checkpoint; else NaN."""
    found = validation_thresholds(restored.workdir, restored.step).get(judged_as(restored), {})
    values = [found.get(finding, {}).get("youden") for finding in restored.findings]
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _known(thresholds: np.ndarray) -> np.ndarray:
    return np.clip(np.where(np.isnan(thresholds), 0.5, thresholds), 1e-9, 1 - 1e-9)
