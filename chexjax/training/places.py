"""Where trained networks look: their maps on films with true boxes, judged; and on a few films, for the eye."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.data.pipeline import Records, pad
from chexjax.data.prepared import Prepared
from chexjax.evaluation.evaluator import ENSEMBLE, Predictions
from chexjax.evaluation.localization import localize
from chexjax.evaluation.report_page import Example
from chexjax.explain.cam import average_maps, class_activation_map
from chexjax.findings import FINDINGS
from chexjax.workdir.restore import Restored


@dataclass(frozen=True)
class Case:
    """One finding on one film of the split, with its true boxes: float (boxes, 4), as `localization` has them."""

    film: int
    finding: str
    boxes: np.ndarray


def look(best: Restored, films: Prepared, split: str, predictions: Predictions) -> tuple[dict[str, Any], list[Example]]:
    """Localisation of every network (and their ensemble) on the split's boxes, and examples of films with maps.

    The maps are those that `predict` shows. Only this process's devices are used.
    """
    source = films.source(split)
    cases = boxed(source)
    chosen = examples(predictions)
    rows = sorted({case.film for case in cases} | {film for film, *_ in chosen})
    pixels, maps = map_films(best, Records(source), rows)
    place = {film: k for k, film in enumerate(rows)}
    judged = localize(
        {
            name: [own[place[case.film], ..., FINDINGS.index(case.finding)] for case in cases]
            for name, own in maps.items()
        },
        [case.boxes for case in cases],
        [case.finding for case in cases],
    )
    shown = next(name for name in (ENSEMBLE, *maps) if name in maps)
    truth = {(case.film, case.finding): case.boxes for case in cases}
    return judged, [
        Example(
            name=predictions.films.names[film],
            finding=finding,
            kind=kind,
            network=shown,
            probability=float(predictions.probabilities[shown][film, FINDINGS.index(finding)]),
            film=pixels[place[film]],
            map=maps[shown][place[film], ..., FINDINGS.index(finding)],
            boxes=truth.get((film, finding), np.zeros((0, 4))),
        )
        for film, finding, kind in chosen
    ]


def boxed(source: Any) -> list[Case]:
    """The cases of a split's records, as `Prepared.source` gives them."""
    cases: dict[tuple[int, int], list[list[float]]] = {}
    for film in range(len(source)):
        boxes = source[film]["bboxes"]
        for (top, left, bottom, right), finding in zip(boxes["bbox"], boxes["label"], strict=True):
            cases.setdefault((film, int(finding)), []).append([left, top, right - left, bottom - top])
    return [Case(film, FINDINGS[finding], np.array(boxes, np.float64)) for (film, finding), boxes in cases.items()]


def examples(predictions: Predictions) -> list[tuple[int, str, str]]:
    """Per finding the film with it that the networks are surest of, and the one they miss most: (film, finding, kind).

    Chosen by the ensemble where there are several networks: the best and the worst, so that neither flatters.
    """
    probabilities = predictions.probabilities.get(ENSEMBLE, next(iter(predictions.probabilities.values())))
    chosen = []
    for k, finding in enumerate(FINDINGS):
        positives = np.flatnonzero(predictions.films.labels[:, k] == 1)
        if len(positives):
            order = positives[np.argsort(probabilities[positives, k], kind="stable")]
            chosen.append((int(order[-1]), finding, "surest"))
            if len(order) > 1:
                chosen.append((int(order[0]), finding, "missed most"))
    return chosen


def map_films(best: Restored, records: Records, rows: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The films `rows`, uint8 (rows, height, width); per network and for the ensemble, float32 (rows, h, w, 14)."""
    size = best.config.batch_size
    films, maps = [], []
    for start in range(0, len(rows), size):
        loaded = [records[row] for row in rows[start : start + size]]
        batch = pad({"image": np.stack([r["image"] for r in loaded]), "label": np.zeros(len(loaded))}, size)
        x = normalize(jnp.asarray(batch["image"]), best.config.data.mean, best.config.data.std)
        own = {name: class_activation_map(model, best.variables[name], x) for name, model in best.models.items()}
        if len(own) > 1:
            own[ENSEMBLE] = average_maps(list(own.values()))
        films.append(batch["image"][: len(loaded), ..., 0])
        maps.append({name: values[: len(loaded)] for name, values in jax.device_get(own).items()})
    if not rows:
        return np.zeros((0, 1, 1), np.uint8), {name: np.zeros((0, 1, 1, len(FINDINGS))) for name in best.models}
    return np.concatenate(films), {name: np.concatenate([part[name] for part in maps]) for name in maps[0]}
