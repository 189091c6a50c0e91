"""Do maps point at the finding? Maps and true boxes in, hit rates out, always beside two controls.

A case is one finding on one film: a map (height, width), higher where the film supports the finding, and the true
boxes, (left, top, width, height) as fractions of the film. Two things are judged, both as a user sees them
(`chexjax.explain.maps`):

- its box: the first one, which bounds the region that holds the map's peak. It hits where its IoU (or IoBB, the share
  of it that lies inside) with a true box is at least a threshold (Wang et al., "ChestX-ray8", CVPR 2017, section 4.3).
  One box a case, so that many boxes cannot buy hits;
- its peak: the pointing game, which is won where the centre of the highest cell lies in a true box (Zhang et al.,
  "Top-down neural attention by excitation backprop", ECCV 2016; without a margin).

A large box is often hit by chance. So the same figures are always given for random maps of the same resolution, and
for a map that only knows that findings lie near the middle of a film.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.labels import highest, outputs_of
from chexjax.data.pipeline import Records, pad
from chexjax.evaluation.evaluator import Predictions
from chexjax.explain.cam import choose_maps
from chexjax.explain.evidence import read_evidence, share_interval
from chexjax.explain.maps import average_maps, boxes_on_film, centre_prior, is_inside, peak_point
from chexjax.models.network import ENSEMBLE
from chexjax.workdir.restore import Restored

RANDOM: Final = "random map"
CENTRE: Final = "centre prior"
THRESHOLDS: Final = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
SIZE: Final = (1024, 1024)  # width and height of the NIH's films, in pixels
_DRAWS: Final = 20  # random maps per case, drawn from
_POOL: Final = 1024  # that many

TrueBoxes = np.ndarray  # float (boxes, 4)


# One map


class Located(NamedTuple):
    """Where a map points: its box (left, top, width, height) and its peak (x, y), in shares of the film."""

    box: tuple[float, float, float, float]
    peak: tuple[float, float]


def locate(map2d: np.ndarray, size: tuple[int, int] = SIZE) -> Located | None:
    """What is judged of a map on a film of `size` (width, height): the box and the peak that a user is shown.

    None for a flat map, which points nowhere.
    """
    boxes, peak = boxes_on_film(map2d, *size), peak_point(map2d)
    if not boxes or peak is None:
        return None
    box, (width, height) = boxes[0], size
    return Located((box.left / width, box.top / height, box.width / width, box.height / height), peak)


class Judged(NamedTuple):
    """The result of each case, float64 (cases,): the best IoU and IoBB of the box; 1 if the peak lies in a true box."""

    iou: np.ndarray
    iobb: np.ndarray
    pointing: np.ndarray


def judge(maps: Sequence[np.ndarray], boxes: Sequence[TrueBoxes], size: tuple[int, int] = SIZE) -> Judged:
    """Judges the map (height, width) of each case against its true boxes; a flat map hits nothing."""
    return _judge([locate(map2d, size) for map2d in maps], boxes)


def _judge(located: Sequence[Located | None], boxes: Sequence[TrueBoxes]) -> Judged:
    rows = []
    for own, truth in zip(located, boxes, strict=True):
        if own is None:
            rows.append((0.0, 0.0, 0.0))
            continue
        shared = _intersections(own.box, truth)
        area, areas = own.box[2] * own.box[3], truth[:, 2] * truth[:, 3]
        inside = is_inside(own.peak, truth)
        rows.append(((shared / (area + areas - shared)).max(), shared.max() / area, float(inside)))
    return Judged(*np.array(rows, np.float64).reshape(-1, 3).T)


def _intersections(box: Sequence[float], truth: TrueBoxes) -> np.ndarray:
    """The area that a box shares with each of (boxes, 4)."""
    left, top = np.maximum(box[0], truth[:, 0]), np.maximum(box[1], truth[:, 1])
    right = np.minimum(box[0] + box[2], truth[:, 0] + truth[:, 2])
    bottom = np.minimum(box[1] + box[3], truth[:, 1] + truth[:, 3])
    return np.maximum(right - left, 0.0) * np.maximum(bottom - top, 0.0)


# All cases


def localize(
    maps: Mapping[str, Sequence[np.ndarray]], boxes: Sequence[TrueBoxes], findings: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Hit rates of each source of maps and of the two controls, over all cases and per finding.

    Args:
      maps: name (of a network, say) -> one map per case. All names cover the same cases.
      boxes: the true boxes of each case.
      findings: of each case.
      seed: of the random maps.

    Returns:
      As `metrics.json` holds it: "cases", and for "all" and each finding its cases and, per name, "pointing", "iou" and
      "iobb" (threshold -> share of cases hit) and the 95 % Wilson interval of the pointing share.
    """
    if not len(boxes):
        return {"cases": 0, "random_maps_per_case": _DRAWS, "groups": {}}
    random = np.random.default_rng(seed)
    pool = [locate(each) for each in random.random((_POOL, *np.shape(next(iter(maps.values()))[0])))]
    draws = random.integers(0, _POOL, (_DRAWS, len(boxes)))
    judged = {name: [judge(own, boxes)] for name, own in maps.items()}
    judged[RANDOM] = [_judge([pool[k] for k in draw], boxes) for draw in draws]
    judged[CENTRE] = [_judge([locate(centre_prior())] * len(boxes), boxes)]
    groups = {"all": np.ones(len(boxes), bool)}
    groups |= {finding: np.array([each == finding for each in findings]) for finding in dict.fromkeys(findings)}
    return {
        "cases": len(boxes),
        "random_maps_per_case": _DRAWS,
        "groups": {
            group: {
                "cases": int(cases.sum()),
                "sources": {name: _shares(draws, cases) for name, draws in judged.items()},
            }
            for group, cases in groups.items()
        },
    }


def _shares(draws: Sequence[Judged], cases: np.ndarray) -> dict[str, Any]:
    """The shares of `cases` (bool) hit, averaged over the draws."""
    count = int(cases.sum())
    pointing = float(np.mean([draw.pointing[cases] for draw in draws]))
    shares = {
        kind: {f"{t:g}": float(np.mean([getattr(draw, kind)[cases] >= t for draw in draws])) for t in THRESHOLDS}
        for kind in ("iou", "iobb")
    }
    return {"pointing": pointing, "pointing_interval": [*share_interval(round(pointing * count), count)], **shares}


# A checkpoint on the films of a split


@dataclass(frozen=True)
class Case:
    """One finding on one film of a split, with its true boxes; `film` is the number of its record."""

    film: int
    finding: str
    boxes: TrueBoxes


@dataclass(frozen=True)
class Example:
    """One finding on one film with its map: uint8 film (height, width), float map (h, w).

    `boxes` are the true ones, perhaps none; `kind` says why the film is shown.
    """

    name: str
    finding: str
    kind: str
    network: str
    probability: float
    film: np.ndarray
    map: np.ndarray
    boxes: TrueBoxes


def evaluate_localization(
    best: Restored, source: Any, predictions: Predictions, findings: Sequence[str]
) -> tuple[dict[str, Any], list[Example]]:
    """Localisation of every network (and their ensemble) on a split's boxes, and examples of films with maps.

    The maps are those that `predict` shows by default. Only this process's devices are used.

    Args:
      source: the split's records, as `Prepared.source` gives them; the films of `predictions` in the same order.
      findings: of `predictions` and of the records' boxes, in their order; keys of `labels.evaluable` of the networks'
        own. The map of a wide label is, cell by cell, the highest of its outputs' maps.
    """
    cases = boxed_cases(source, findings)
    chosen = choose_examples(predictions, findings)
    films = sorted({case.film for case in cases} | {film for film, *_ in chosen})
    pixels, whole = map_films(best, Records(source), films, len(best.findings))
    columns = outputs_of(findings, best.findings)
    maps = {name: highest(values, columns) for name, values in whole.items()}
    row = {film: k for k, film in enumerate(films)}
    column = {finding: k for k, finding in enumerate(findings)}
    figures = localize(
        {name: [own[row[case.film], ..., column[case.finding]] for case in cases] for name, own in maps.items()},
        [case.boxes for case in cases],
        [case.finding for case in cases],
    )
    shown = next(name for name in (ENSEMBLE, *maps) if name in maps)
    truth = {(case.film, case.finding): case.boxes for case in cases}
    return figures, [
        Example(
            name=predictions.films.names[film],
            finding=finding,
            kind=kind,
            network=shown,
            probability=float(predictions.probabilities[shown][film, column[finding]]),
            film=pixels[row[film]],
            map=maps[shown][row[film], ..., column[finding]],
            boxes=truth.get((film, finding), np.zeros((0, 4))),
        )
        for film, finding, kind in chosen
    ]


def boxed_cases(source: Any, findings: Sequence[str]) -> list[Case]:
    """The cases of a split's records."""
    cases: dict[tuple[int, int], list[list[float]]] = {}
    for film in range(len(source)):
        boxes = source[film]["bboxes"]
        for (top, left, bottom, right), finding in zip(boxes["bbox"], boxes["label"], strict=True):
            cases.setdefault((film, int(finding)), []).append([left, top, right - left, bottom - top])
    return [Case(film, findings[finding], np.array(boxes, np.float64)) for (film, finding), boxes in cases.items()]


def choose_examples(predictions: Predictions, findings: Sequence[str]) -> list[tuple[int, str, str]]:
    """For each finding, the positive films with the highest and the lowest probability: (film, finding, kind).

    Chosen by the ensemble if there are several networks. Best and worst are both shown, so the choice does not flatter.
    """
    probabilities = predictions.probabilities.get(ENSEMBLE, next(iter(predictions.probabilities.values())))
    chosen = []
    for k, finding in enumerate(findings):
        positives = np.flatnonzero(predictions.films.labels[:, k] == 1)
        if len(positives):
            order = positives[np.argsort(probabilities[positives, k], kind="stable")]
            chosen.append((int(order[-1]), finding, "surest"))
            if len(order) > 1:
                chosen.append((int(order[0]), finding, "missed most"))
    return chosen


def map_films(
    best: Restored, records: Records, films: Sequence[int], findings: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Films by record number, uint8 (films, height, width); their maps per network and for the ensemble.

    Maps are float32 (films, h, w, findings).
    """
    size = best.config.batch_size
    pairs = [(model, best.variables[name]) for name, model in best.models.items()]
    _, method = choose_maps(pairs, best.config.data.size, read_evidence(best).best)
    pixels, maps = [], []
    for start in range(0, len(films), size):
        loaded = [records[film] for film in films[start : start + size]]
        batch = pad({"image": np.stack([r["image"] for r in loaded]), "label": np.zeros(len(loaded))}, size)
        x = normalize(jnp.asarray(batch["image"]), best.config.data.mean, best.config.data.std)
        own = {name: method(model, best.variables[name], x) for name, model in best.models.items()}
        if len(own) > 1:
            own[ENSEMBLE] = average_maps(list(own.values()))
        pixels.append(batch["image"][: len(loaded), ..., 0])
        maps.append({name: values[: len(loaded)] for name, values in jax.device_get(own).items()})
    if not films:
        return np.zeros((0, 1, 1), np.uint8), {name: np.zeros((0, 1, 1, findings)) for name in best.models}
    return np.concatenate(pixels), {name: np.concatenate([part[name] for part in maps]) for name in maps[0]}
