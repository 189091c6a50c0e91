"""Maps beside controls that know nothing of the film; `chexjax.commands.check_maps` says what is asked, and why."""

if __name__ == "__main__":
    from chexjax.commands.check_maps import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import rankdata

from chexjax.data.augment import normalize
from chexjax.data.images import read_grey
from chexjax.data.pipeline import Records
from chexjax.data.prepared import Prepared
from chexjax.data.recipe import clean_films, recipe_of, shrink
from chexjax.data.sources import nih
from chexjax.devices import at_precision
from chexjax.errors import DataError, first_ten, printable
from chexjax.explain import cam
from chexjax.explain.evidence import MAPS, Evidence, Pointing, from_json, total
from chexjax.explain.maps import centre_prior, heat, is_inside, peak_point
from chexjax.formats import format_figure
from chexjax.models.configured import create_variables
from chexjax.runtime import progress_bar
from chexjax.workdir.restore import Restored

SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
RANDOM, CENTRE = "random map", "centre of the film"
COLUMNS: Final = {
    "pointing": "pointing",
    "head_anew": "correlation, head anew",
    "all_anew": "correlation, all weights anew",
    "most_removed": "probability left, most important removed",
    "least_removed": "least important removed",
    "gap": "difference",
}
_DRAWS: Final = 3  # of new weights
_REMOVED: Final = 100  # cases of which parts are removed, at most
_BATCH: Final = 16

PyTree = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Cases:
    """Findings on films: uint8 (cases, size, size), the number of each finding, and true boxes (boxes, 4) or none.

    Boxes are (left, top, width, height) in shares of the film.
    """

    films: np.ndarray
    findings: np.ndarray
    boxes: Sequence[np.ndarray]


def find_cases(films: Prepared, most: int, split: str = "test") -> Cases:
    """At most `most` cases of a split: findings with boxes, or, where no film has one, findings that are present.

    Raises:
      DataError: no film has a finding.
    """
    source = films.source(split)
    boxed: dict[tuple[int, int], list[list[float]]] = {}
    for film in range(len(source)):
        boxes = source[film]["bboxes"]
        for (top, left, bottom, right), finding in zip(boxes["bbox"], boxes["label"], strict=True):
            boxed.setdefault((film, int(finding)), []).append([left, top, right - left, bottom - top])
    present = [(int(film), int(finding)) for film, finding in np.argwhere(films.parts[split].labels == 1)]
    found = list(boxed) or present
    if not found:
        raise DataError(f"no film of the {split} split has a finding")
    chosen = _some(found, most)
    records = Records(source)
    return Cases(
        np.stack([records[film]["image"][..., 0] for film, _ in chosen]),
        np.array([finding for _, finding in chosen]),
        [np.array(boxed.get(case, np.zeros((0, 4))), np.float64).reshape(-1, 4) for case in chosen],
    )


def _some(cases: Sequence[T], most: int) -> list[T]:
    """At most `most` of the cases, drawn by a fixed seed, in their order."""
    return [cases[k] for k in np.sort(np.random.default_rng(0).permutation(len(cases))[:most])]


def find_boxes(folder: Path, restored: Restored, most: int, exclude: Path | None = None) -> Cases:
    """At most `most` cases with boxes of another folder in the NIH's layout, its films prepared as the network's own.

    Args:
      exclude: see `nih.boxed_entries`.

    Raises:
      DataError: films are missing, or none has a box of a finding that the network knows.
    """
    boxed = nih.boxes_by_case(nih.boxed_entries(folder, exclude).values())
    cases = [(name, finding) for name, finding in boxed if finding in restored.findings]
    if not cases:
        raise DataError(f"{printable(folder)} has no boxes of these findings on films that may be used")
    chosen = _some(cases, most)
    paths, missing = nih.find_films(folder, dict.fromkeys(name for name, _ in chosen))
    if missing:
        raise DataError(f"{printable(folder)}: films with boxes are missing, {first_ten(missing)}")
    recipe = recipe_of(restored.config.data)
    films = {}
    for name, path in paths.items():
        (film,) = clean_films([read_grey(path)], recipe, chunk=1) if recipe.clean else (read_grey(path),)
        films[name] = shrink(film, recipe.size, recipe.enlarge)
    return Cases(
        np.stack([films[name] for name, _ in chosen]),
        np.array([restored.findings.index(finding) for _, finding in chosen]),
        [np.array(boxed[case], np.float64) for case in chosen],
    )


class Checked(NamedTuple):
    """`rows`: the figures of maps and controls, by name; keys as in `COLUMNS`, None where there is no figure.

    `evidence`: by network, how its maps did on the boxes.
    """

    rows: dict[str, dict[str, float | None]]
    evidence: dict[str, Evidence]


def check_maps(restored: Restored, cases: Cases, kinds: Sequence[str] = ("cam",)) -> Checked:
    """Judges each network's maps of each kind, and the two controls; these on the first network."""
    rows: dict[str, dict[str, float | None]] = {}
    evidence: dict[str, Evidence] = {}
    data, size = restored.config.data, restored.config.data.size
    controls: dict[str, list[np.ndarray]] = {}
    with progress_bar(len(restored.models) * len(kinds) + 2, "checking maps", kept=False) as bar:
        for name, model in restored.models.items():
            variables = restored.variables[name]
            score = _in_batches(lambda own, x, model=model: model.apply(own, x), data.mean, data.std)
            anew = [_drawn_anew(model, variables, size, seed) for seed in range(_DRAWS)]
            by_kind = {}
            for kind in kinds:
                label, method = cam.choose_maps([(model, variables)], size, kind)
                see = _in_batches(
                    lambda own, x, finding, method=method, model=model: method(model, own, x, own=finding)[..., 0],
                    data.mean, data.std,
                )  # fmt: skip
                maps = list(see(variables, cases.films, cases.findings))
                row = judge_maps(maps, cases, partial(score, variables))
                others = {}
                for column, index in (("head_anew", 0), ("all_anew", 1)):
                    others[column] = [list(see(draw[index], cases.films, cases.findings)) for draw in anew]
                    row[column] = float(np.mean([agreement(maps, other) for other in others[column]]))
                rows[f"{name}, {label}"] = row
                by_kind[kind] = count_hits(maps, [*others.values()], cases, restored.findings)
                bar.update()
                if not controls:
                    random = np.random.default_rng(0)
                    controls[RANDOM] = [random.random(maps[0].shape) for _ in maps]
                    controls[CENTRE] = [centre_prior()] * len(maps)
                    reference, judge = maps, partial(judge_maps, cases=cases, score=partial(score, variables))
            evidence[name] = Evidence(by_kind)
        for name, maps in controls.items():
            rows[name] = judge(maps)
            bar.update()
        rows[RANDOM]["head_anew"] = rows[RANDOM]["all_anew"] = agreement(reference, controls[RANDOM])
    return Checked(rows, evidence)


def count_hits(
    maps: Sequence[np.ndarray], anew: Sequence[Sequence[Sequence[np.ndarray]]], cases: Cases, findings: Sequence[str]
) -> dict[str, Pointing]:
    """The hits of maps, of the centre, and of maps by new weights, by finding, on the cases that have boxes.

    Args:
      anew: ways of drawing weights anew, each with several draws of maps; the way with more hits counts.
    """
    boxed = np.array([len(boxes) > 0 for boxes in cases.boxes])
    hits, centre = hits_of(maps, cases), hits_of([centre_prior()] * len(maps), cases)
    ways = [np.mean([hits_of(draw, cases) for draw in draws], axis=0) for draws in anew]
    found = {}
    for number in np.unique(cases.findings[boxed]):
        own = boxed & (cases.findings == number)
        most = max((float(way[own].sum()) for way in ways), default=0.0)
        found[findings[number]] = Pointing(int(own.sum()), int(hits[own].sum()), int(centre[own].sum()), most)
    return found


def hits_of(maps: Sequence[np.ndarray], cases: Cases) -> np.ndarray:
    """Whether each map's peak lies in a box of its case, bool (cases,); False of a case without boxes."""
    peaks = map(peak_point, maps)
    return np.array(
        [
            peak is not None and len(boxes) > 0 and is_inside(peak, boxes)
            for peak, boxes in zip(peaks, cases.boxes, strict=True)
        ]
    )


def judge_maps(
    maps: Sequence[np.ndarray], cases: Cases, score: Callable[[np.ndarray], np.ndarray]
) -> dict[str, float | None]:
    """Pointing and removal of a map (h, w) a case; `score` gives logits (films, findings) of films.

    Removal is measured on at most 100 cases, evenly chosen.
    """
    boxed = np.array([len(boxes) > 0 for boxes in cases.boxes])
    pointing = float(hits_of(maps, cases)[boxed].mean()) if boxed.any() else None
    some = np.unique(np.linspace(0, len(maps) - 1, min(len(maps), _REMOVED)).round().astype(int))
    maps, cases = [maps[k] for k in some], Cases(cases.films[some], cases.findings[some], ())
    rows = np.arange(len(maps))

    def probability(films: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-score(films)[rows, cases.findings].astype(np.float64)))

    height, width = cases.films.shape[1:]
    important = np.stack([heat(each, width, height) for each in maps])
    # Where a map is flat over a stretch, as beyond its outermost cells, chance decides what goes first.
    order = important + np.random.default_rng(0).uniform(0, 1e-4, important.shape)
    whole = probability(cases.films)
    left: dict[str, list[float]] = {"most_removed": [], "least_removed": []}
    for share in SHARES:
        for column, sign in (("most_removed", -1), ("least_removed", 1)):
            removed = _first(sign * order, share)
            left[column].append(float((probability(fill_in(cases.films, removed)) / whole).mean()))
    most, least = (float(np.mean(left[column])) for column in ("most_removed", "least_removed"))
    return {"pointing": pointing, "most_removed": most, "least_removed": least, "gap": least - most}


def agreement(maps: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The mean magnitude of the rank correlation (Spearman's) of maps, case by case; a flat map agrees with none."""
    found = []
    for pair in zip(maps, others, strict=True):
        ranks = [rankdata(each) for each in pair]
        found.append(abs(np.corrcoef(ranks)[0, 1]) if all(map(np.ptp, ranks)) else 0.0)
    return float(np.mean(found))


# Removing parts of films


def fill_in(films: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Films whose removed pixels are drawn from their surroundings, with a little noise; uint8 (films, height, width).

    Each removed pixel becomes the weighted mean of its eight neighbours, removed ones among them: 1/6 for those beside
    it and 1/12 for those across, as in ROAD.
    """
    filled = np.concatenate(
        [np.asarray(_fill(films[k : k + _BATCH], removed[k : k + _BATCH])) for k in range(0, len(films), _BATCH)]
    )
    noise = np.random.default_rng(0).normal(0, 2.55, films.shape)
    return np.where(removed, np.clip(np.rint(filled + noise), 0, 255), films).astype(np.uint8)


@jax.jit
def _fill(films: jax.Array, removed: jax.Array) -> jax.Array:
    """The linear equations of `fill_in`, by conjugate gradients."""
    known = jnp.where(removed, 0.0, films.astype(jnp.float32))
    weights = _neighbours(jnp.ones_like(known))

    def equations(x: jax.Array) -> jax.Array:
        return jnp.where(removed, weights * x - _neighbours(x), x)

    begin = jnp.where(removed, known.sum((1, 2), keepdims=True) / (~removed).sum((1, 2), keepdims=True), 0.0)
    right = jnp.where(removed, _neighbours(known), 0.0)
    found, _ = jax.scipy.sparse.linalg.cg(equations, right, begin, tol=1e-4, maxiter=500)
    return found


def _neighbours(x: jax.Array) -> jax.Array:
    """The weighted sum over each pixel's neighbours within the film."""
    across, beside = 1 / 12, 1 / 6
    kernel = jnp.array([[across, beside, across], [beside, 0.0, beside], [across, beside, across]], x.dtype)
    return jax.lax.conv_general_dilated(x[:, None], kernel[None, None], (1, 1), "SAME", precision="highest")[:, 0]


def _first(order: np.ndarray, share: float) -> np.ndarray:
    """The `share` of each film's pixels that come first, bool (films, height, width)."""
    flat = order.reshape(len(order), -1)
    ranks = flat.argsort(axis=1).argsort(axis=1)
    return (ranks < round(share * flat.shape[1])).reshape(order.shape)


# Networks


def _in_batches(function: Callable[..., jax.Array], mean: float, std: float) -> Callable[..., np.ndarray]:
    """`function` of (variables, normalised films, more a film), for (variables, uint8 (films, height, width), more)."""
    run = jax.jit(
        at_precision("highest", lambda own, films, *more: function(own, normalize(films[..., None], mean, std), *more))
    )

    def apply(own: PyTree, *rows: np.ndarray) -> np.ndarray:
        parts = []
        for k in range(0, len(rows[0]), _BATCH):
            batch = [each[k : k + _BATCH] for each in rows]
            parts.append(np.asarray(run(own, *(_padded(each) for each in batch)))[: len(batch[0])])
        return np.concatenate(parts)

    return apply


def _padded(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows, np.zeros((_BATCH - len(rows), *rows.shape[1:]), rows.dtype)])


def _drawn_anew(model: Any, variables: PyTree, size: int, seed: int) -> tuple[PyTree, PyTree]:
    """The variables with a new head, and new ones altogether."""
    fresh = create_variables(model, 1_000 + seed, seed, (size, size, 1))

    def with_new_head(path: tuple[Any, ...], leaf: jax.Array, new: jax.Array) -> jax.Array:
        return new if any(getattr(key, "key", None) == "head" for key in path) else leaf

    whole = _onto(variables, fresh)
    return jax.tree_util.tree_map_with_path(with_new_head, variables, whole), whole


def _onto(old: PyTree, new: PyTree) -> PyTree:
    """`new` in the structure of `old`; what `new` lacks, as the offset of an imported stem, is zero."""
    if not isinstance(old, dict):
        return new
    return {k: _onto(v, new[k]) if k in new else jax.tree.map(np.zeros_like, v) for k, v in old.items()}


# The command


def maps_table(found: dict[str, dict[str, float | None]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of `check_maps`' figures."""
    rows = [
        [name, *(format_figure(row.get(key), 3) if key in row else "" for key in COLUMNS)]
        for name, row in found.items()
    ]
    return ["", *COLUMNS.values()], rows


def pointing_table(evidence: Mapping[str, Evidence]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: by finding, the share of boxes that each kind of map hits, and the controls."""
    heads = [
        "finding",
        "network",
        "maps",
        "boxes",
        "hit",
        "95 %",
        "by the centre",
        "by new weights",
        "shown",
        "said beside the map",
    ]
    rows = []
    for name, each in evidence.items():
        for kind, found in each.kinds.items():
            for finding, own in ({"all": total(found.values())} | dict(found)).items():
                low, high = own.interval
                shares = [format_figure(share / own.cases, 3) for share in (own.hits, own.centre, own.anew)]
                is_shown = kind == each.best
                note = each.note(kind, finding) if is_shown and finding != "all" else ""
                hit, *others = shares
                row = [finding, name, kind, str(own.cases), hit, f"{low:.2f}-{high:.2f}", *others]
                rows.append([*row, "yes" if is_shown else "", note])
    return heads, rows


def read_check(workdir: Path, step: int) -> dict[str, Any] | None:
    """What the command left in a workdir: "step", "cases", "maps"; None without it, or where it is of another step."""
    try:
        found = json.loads((workdir / MAPS).read_text(encoding="utf-8"))
        rows = found["maps"].values()
        fine = found["step"] == step and isinstance(found["cases"], int)
        from_json(found.get("pointing", {}))  # absent in older workdirs
        fine = fine and all(value is None or math.isfinite(value) for row in rows for value in row.values())
        return found if fine else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
