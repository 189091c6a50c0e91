"""Simulated chest films in the layout of ChestX-ray14: they enter the library at the same door as the real ones.

Three steps, each usable alone: `plan_films` draws the table of patients, films and findings (labels only, thousands a
second); `render_film` draws one film; `write_films` writes the folder. A film depends on its seed, patient and
follow-up number alone, so neither the number of films nor of processes changes it, and two folders of one seed that
differ in an option (no artefacts, say) hold the same films but for that option.
"""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from chexjax.commands import parse
from chexjax.data.phantom_anatomy import (
    FILM,
    Anatomy,
    Array,
    Box,
    Scene,
    draw_anatomy,
    healthy_scene,
)
from chexjax.data.phantom_findings import ARTIFACT_DRAWERS, CHRONIC, DRAWERS, SHAPES
from chexjax.errors import ConfigError, DataError, command, fail
from chexjax.findings import FINDINGS, NO_FINDING
from chexjax.progress import progress_bar
from chexjax.unfinished import own_folder

VERSION: Final = 1  # to be raised when a seed comes to give other films: what was drawn before is then drawn anew
ENTRY_HEADER: Final = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER: Final = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
ARTIFACTS: Final = tuple(ARTIFACT_DRAWERS)

# Films with each finding among the 112,120 of ChestX-ray14, in the order of FINDINGS (Data_Entry_2017_v2020.csv).
_REAL_COUNTS: Final = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
_REAL_FILMS: Final = 112_120
_AP_SHARE: Final = 0.4  # 44,810 of them

# Tetrachoric correlations (in hundredths) of the 14 findings and, last, of an AP view, over 9,868 films of
# ChestX-ray14; the nearest positive definite matrix. Edema goes with Pneumonia (69) and the AP view (53), Emphysema
# with Pneumothorax (41), Effusion with Cardiomegaly (39).
_CORRELATIONS: Final = (
    (100, 10, 34, 18, 10, -4, 28, 5, 36, -3, 13, 1, 0, 4, 20),
    (10, 100, 39, 1, -21, -8, 5, -34, -8, 14, -7, -4, -7, 8, 3),
    (34, 39, 100, 24, 16, 1, 20, 7, 26, 30, 8, -6, 25, 9, 20),
    (18, 1, 24, 100, 14, 16, 33, 1, 17, 38, 7, 10, 4, -6, 31),
    (10, -21, 16, 14, 100, 31, 0, 13, 26, 6, 14, 3, 20, 13, 8),
    (-4, -8, 1, 16, 31, 100, -3, -8, 18, -5, -4, 12, 24, -4, 3),
    (28, 5, 20, 33, 0, -3, 100, -16, 11, 69, 0, -6, 9, 15, 14),
    (5, -34, 7, 1, 13, -8, -16, 100, 7, -5, 41, -5, 9, -18, -9),
    (36, -8, 26, 17, 26, 18, 11, 7, 100, 16, 5, 17, 11, -1, 28),
    (-3, 14, 30, 38, 6, -5, 69, -5, 16, 100, -11, -33, 7, -6, 53),
    (13, -7, 8, 7, 14, -4, 0, 41, 5, -11, 100, -3, 9, 9, 2),
    (1, -4, -6, 10, 3, 12, -6, -5, 17, -33, -3, 100, 16, 8, -23),
    (0, -7, 25, 4, 20, 24, 9, 9, 11, 7, 9, 16, 100, 27, -20),
    (4, 8, 9, -6, 13, -4, 15, -18, -1, -6, 9, 8, 27, 100, -20),
    (20, 3, 20, 31, 8, 3, 14, -9, 28, 53, 2, -23, -20, -20, 100),
)
_SHARED_ILLNESS: Final = 0.2  # see `_plan`; brings "No Finding" back to 42 % where the rare findings are lifted
_PERSISTENCE: Final = 0.5  # share of what a film shows that the patient's other films show too

# What each generator of a film is for; never renumber, or every film changes.
_PLAN, _BODY, _POSE, _ARTIFACT, _NOISE, _FINDING = range(6)


@dataclass(frozen=True)
class Film:
    """One row of the table. `severities` maps the findings present to 0..1, from barely visible to frank."""

    seed: int = 0
    patient: int = 1
    follow_up: int = 0
    age: int = 50
    sex: str = "M"
    view: str = "PA"
    severities: Mapping[str, float] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.patient:08d}_{self.follow_up:03d}.png"

    @property
    def labels(self) -> str:
        """As the column `Finding Labels` has them."""
        return "|".join(sorted(self.severities)) or NO_FINDING

    @property
    def in_test(self) -> bool:
        """Every fourth patient is a test patient; patients are alike, so no chance is needed."""
        return self.patient % 4 == 2

    def generator(self, purpose: int, *, patient_only: bool = False, part: int = 0) -> np.random.Generator:
        """A generator of its own for each purpose, the same on all films of a patient or for this film alone."""
        visit = 0 if patient_only else self.follow_up + 1
        return _generator(self.seed, self.patient, visit, purpose, part)


class FindingBox(NamedTuple):
    """A finding's place in film units (1,024 to the film's width), whatever the film's size."""

    finding: str
    box: Box


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


# The table of films


def prevalence(rare_share: float = 0.07) -> dict[str, float]:
    """Share of films with each finding: ChestX-ray14's, lifted so that the rarest (Hernia, 0.2 %) has `rare_share`.

    p' = p + lift * (1 - p / max p): the commonest finding keeps its share, the order stays. With 0 nothing is lifted.
    """
    shares = np.array(_REAL_COUNTS) / _REAL_FILMS
    relative = 1.0 - shares / shares.max()
    lift = max(0.0, (rare_share - shares.min()) / relative[shares.argmin()])
    return dict(zip(FINDINGS, (shares + lift * relative).tolist(), strict=True))


def plan_films(
    count: int,
    *,
    seed: int = 0,
    rare_share: float = 0.07,
    artifact_share: float = 0.2,
    artifact_kinds: Sequence[str] = ARTIFACTS,
    cue_finding: str | None = None,
    cue_share: float = 0.9,
) -> list[Film]:
    """Draws the table of `count` films without drawing the films; see `write_films` for the arguments.

    Findings are thresholds on correlated normal variables, so both the shares and the co-occurrence are ChestX-ray14's;
    how far a variable lies above its threshold is the severity. Part of each variable is the patient's own.
    """
    _check_plan(count, seed, rare_share, artifact_share, artifact_kinds, cue_finding, cue_share)
    normal = NormalDist()
    shares = prevalence(rare_share)
    thresholds = [normal.inv_cdf(1.0 - share) for share in (*shares.values(), _AP_SHARE)]
    mixing = _mixing(rare_share > min(prevalence(0.0).values()))
    films: list[Film] = []
    patient = 0
    while len(films) < count:
        patient += 1
        rng = _generator(seed, patient, 0, _PLAN)
        sex, age = ("F" if rng.random() < 0.435 else "M"), float(np.clip(rng.normal(47.0, 16.5), 4, 92))
        visits = min(15, int(np.ceil(np.exp(rng.normal(-0.2, 1.7)))))  # half have one film, the mean is 3
        own = mixing @ rng.standard_normal(len(thresholds))
        for visit in range(min(visits, count - len(films))):
            chance = _generator(seed, patient, visit + 1, _PLAN)
            acute = mixing @ chance.standard_normal(len(thresholds))
            latent = np.sqrt(_PERSISTENCE) * own + np.sqrt(1.0 - _PERSISTENCE) * acute
            severities = {
                finding: 1.0 - (1.0 - normal.cdf(value)) / shares[finding]
                for finding, value, threshold in zip(FINDINGS, latent[:-1].tolist(), thresholds, strict=False)
                if value > threshold
            }
            likely = cue_share if cue_finding in severities else artifact_share
            view = "AP" if latent[-1] > thresholds[-1] else "PA"
            films.append(
                Film(
                    seed=seed,
                    patient=patient,
                    follow_up=visit,
                    age=int(age + 0.3 * visit),
                    sex=sex,
                    view=view,
                    severities=severities,
                    artifacts=_plan_artifacts(chance, likely, view, artifact_kinds),
                )
            )
    return films


def _mixing(lifted: bool) -> Array:
    """The matrix that gives independent normal variables the correlations of the findings and the view.

    Where the rare findings are lifted, films without a finding would fall to a third; adding one factor that all
    findings share makes them meet in fewer films.
    """
    correlations = np.array(_CORRELATIONS) / 100.0
    if lifted:
        own = np.full(len(correlations), np.sqrt(1.0 - _SHARED_ILLNESS))
        own[-1] = 1.0
        correlations = own[:, None] * correlations * own
        correlations[:-1, :-1] += _SHARED_ILLNESS
    return np.linalg.cholesky(correlations)


def _plan_artifacts(rng: np.random.Generator, share: float, view: str, kinds: Sequence[str]) -> tuple[str, ...]:
    """One or two kinds on a `share` of films; wires and tubes are commoner in bed. Always uses the same draws."""
    chance, second, *order = rng.random(2 + len(ARTIFACTS))
    if chance >= share or not kinds:
        return ()
    bedside = {"wires": 2.0, "tube": 2.0} if view == "AP" else {}
    score = {kind: order[ARTIFACTS.index(kind)] ** (1.0 / bedside.get(kind, 1.0)) for kind in kinds}
    ranked = sorted(score, key=score.__getitem__, reverse=True)
    return tuple(ranked[: 2 if second < 0.35 else 1])


def _check_plan(
    count: int,
    seed: int,
    rare_share: float,
    artifact_share: float,
    artifact_kinds: Sequence[str],
    cue_finding: str | None,
    cue_share: float,
) -> None:
    if count < 1:
        raise ConfigError(f"count is {count}: at least one film is needed")
    if seed < 0:
        raise ConfigError(f"seed is {seed}: it must be 0 or more")
    for name, share in (("artifact_share", artifact_share), ("cue_share", cue_share)):
        if not 0.0 <= share <= 1.0:
            raise ConfigError(f"{name} is {share}: a share lies between 0 and 1")
    if not 0.0 <= rare_share <= 0.15:
        raise ConfigError(f"rare_share is {rare_share}: it must lie between 0 (real prevalence) and 0.15")
    if unknown := set(artifact_kinds) - set(ARTIFACTS):
        raise ConfigError(f"unknown artefact {', '.join(sorted(unknown))}; there are {', '.join(ARTIFACTS)}")
    if cue_finding is not None and cue_finding not in FINDINGS:
        raise ConfigError(f"unknown finding {cue_finding!r} for the cue; there are {', '.join(FINDINGS)}")


# One film


def film_anatomy(film: Film) -> Anatomy:
    """The proportions of the film's chest, moved by its findings."""
    anatomy = draw_anatomy(
        film.view, film.sex, film.age, film.generator(_BODY, patient_only=True), film.generator(_POSE)
    )
    for finding, shape in SHAPES.items():
        if finding in film.severities:
            shape(anatomy, film.severities[finding], _finding_generator(film, finding))
    return anatomy


def render_film(film: Film, size: int = 256) -> tuple[Array, list[FindingBox]]:
    """Draws a film: uint8 (size, size), and the boxes of the findings that have a place.

    The same film with other `severities` or `artifacts` (`dataclasses.replace`) differs in nothing else. Only the
    graininess depends on the size: a smaller film averages more quanta in a pixel.
    """
    pose = film.generator(_POSE, part=1)
    scene = healthy_scene(film_anatomy(film), size, film.generator(_BODY, patient_only=True, part=1))
    boxes = []
    for finding, draw in DRAWERS.items():
        if finding in film.severities:
            found = draw(scene, film.severities[finding], _finding_generator(film, finding))
            boxes += [FindingBox(finding, box) for box in found]
    grey = _expose(scene, pose)
    for kind in film.artifacts:
        opacity = ARTIFACT_DRAWERS[kind](scene, film.generator(_ARTIFACT, part=ARTIFACTS.index(kind)))
        grey += (250.0 - grey) * opacity
    grain = film.generator(_NOISE, part=size).standard_normal(grey.shape, dtype=np.float32)
    grey += (0.6 + 4.0 * size / FILM) * grain
    return np.clip(grey + 0.5, 0, 255).astype(np.uint8), boxes


def _finding_generator(film: Film, finding: str) -> np.random.Generator:
    return film.generator(_FINDING, patient_only=finding in CHRONIC, part=FINDINGS.index(finding))


def _expose(scene: Scene, rng: np.random.Generator) -> Array:
    """Density to grey levels: the film's curve, the patient's exposure, uneven scatter, sometimes a collimated edge."""
    a = scene.anatomy
    scatter = 0.05 * (rng.random() - 0.5) * (scene.x / 400.0) + 0.05 * (rng.random() - 0.5) * (scene.y / 512.0 - 1)
    density = np.maximum(scene.density() * a.exposure + scatter, 0.0)
    grey = 1.0 - np.exp(-1.5 * density**1.25)
    black = 4.0 + 10.0 * rng.random()
    grey = black + (248.0 - black) * grey
    middle = 150.0
    grey = middle + (grey - middle) * a.contrast
    chance, *edges = rng.random(6)
    if chance < 0.18:
        grey *= _collimation(scene, edges)
    return grey.astype(np.float32)


def _collimation(scene: Scene, edges: Sequence[float]) -> Array:
    """A mask (H, W), 0 where the beam was shut off: up to 5 % of the film at each side, a little askew."""
    at = (np.arange(scene.size, dtype=np.float32) + 0.5) * (FILM / scene.size)
    x, y = at[None, :], at[:, None]
    askew = 0.05 * (edges[4] - 0.5)
    widths = [50.0 * max(0.0, edge - 0.3) for edge in edges[:4]]
    inside = np.minimum(x - widths[0] + askew * y, FILM - x - widths[1] - askew * y)
    inside = np.minimum(inside, np.minimum(y - widths[2] - askew * x, FILM - y - widths[3] + askew * x))
    return np.clip((inside + 30.0) / 8.0, 0.04, 1.0)


# The folder


def write_films(
    out: str | Path,
    *,
    count: int = 2000,
    size: int = 256,
    seed: int = 0,
    rare_share: float = 0.07,
    artifact_share: float = 0.2,
    artifact_kinds: Sequence[str] = ARTIFACTS,
    cue_finding: str | None = None,
    cue_share: float = 0.9,
    workers: int = 1,
    progress: bool = True,
) -> None:
    """Writes a folder of simulated films in the layout of ChestX-ray14; `plan_films` gives its table.

    The folder appears whole or not at all: it is written beside `out` under a hidden name and renamed at the end. What
    a run leaves that is killed outright, the next one removes.

    Args:
      out: the folder; it must not exist, or be empty.
      count: number of films.
      size: width and height of the PNGs in pixels. Boxes are in units of 1,024 to the width, as the real ones are.
      seed: equal seeds give equal bytes.
      rare_share: share of films with the rarest finding; see `prevalence`. 0 gives the real prevalences.
      artifact_share: share of films with bright artefacts (pacemaker, wires, tubes, letters).
      artifact_kinds: which of `ARTIFACTS` may occur.
      cue_finding: a finding whose films carry artefacts with chance `cue_share` instead: a spurious cue. The folder of
        the same seed without it holds the same films without the cue.
      cue_share: see `cue_finding`.
      workers: processes that draw. Above 1, a script needs the usual `if __name__ == "__main__"`.
      progress: shows a bar on stderr.

    Raises:
      ConfigError: an argument cannot be used.
      DataError: `out` is not empty, or cannot be written.
    """
    if not 32 <= size <= 4096:
        raise ConfigError(f"size is {size}: it must lie between 32 and 4096 pixels")
    if workers < 1:
        raise ConfigError(f"workers is {workers}: at least one is needed")
    films = plan_films(
        count,
        seed=seed,
        rare_share=rare_share,
        artifact_share=artifact_share,
        artifact_kinds=artifact_kinds,
        cue_finding=cue_finding,
        cue_share=cue_share,
    )
    target = Path(out).absolute()
    part: Path | None = None
    try:
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{out} exists and is not an empty folder: films are written into a new one")
        target.parent.mkdir(parents=True, exist_ok=True)
        part = own_folder(target.parent, f".{target.name}")
        _write_folder(part, films, size, workers, progress)
        os.replace(part, target)
    except OSError as error:
        raise DataError(f"cannot write the films to {out}: {error.strerror or error}") from error
    except BrokenProcessPool as error:
        raise DataError(
            "a process that drew films ended early, most often for want of memory: use fewer workers"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _write_folder(folder: Path, films: Sequence[Film], size: int, workers: int, progress: bool) -> None:
    (folder / "images").mkdir()
    write = partial(_write_film, folder / "images", size)
    boxes: list[str] = []
    with progress_bar(len(films), "simulated films", shown=progress) as bar:
        for film, found in zip(films, _map(write, films, workers), strict=True):
            boxes += [_box_row(film, box) for box in found]
            bar.update()
    names = [film.name for film in films]
    _write_lines(folder / "Data_Entry_2017_v2020.csv", [ENTRY_HEADER, *map(_entry_row, films)])
    _write_lines(folder / "BBox_List_2017.csv", [BOX_HEADER, *boxes])
    _write_lines(folder / "train_val_list.txt", [n for n, film in zip(names, films, strict=True) if not film.in_test])
    _write_lines(folder / "test_list.txt", [n for n, film in zip(names, films, strict=True) if film.in_test])


def _map(write: Callable[[Film], list[FindingBox]], films: Sequence[Film], workers: int) -> Iterator[list[FindingBox]]:
    """`map`, in order, over processes where there are several: started afresh, as a forked JAX may hang."""
    if workers == 1:
        yield from map(write, films)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_follow_parent) as pool:
        try:
            yield from pool.map(write, films, chunksize=16)
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leaves Ctrl-C, which reaches every process, to the parent; and ends with it, even where that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_film(folder: Path, size: int, film: Film) -> list[FindingBox]:
    image, boxes = render_film(film, size)
    Image.fromarray(image).save(folder / film.name, compress_level=3)
    return boxes


def _entry_row(film: Film) -> str:
    return (
        f"{film.name},{film.labels},{film.follow_up},{film.patient},{film.age},{film.sex},{film.view},"
        "2992,2991,0.143,0.143"
    )


def _box_row(film: Film, found: FindingBox) -> str:
    """As the real list has it: its own word for Infiltration, and three empty columns."""
    name = "Infiltrate" if found.finding == "Infiltration" else found.finding
    return ",".join([film.name, name, *(f"{value:.6f}" for value in found.box), "", "", ""])


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# The command line


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "The folder to write; new or empty.", flag_values=values)
    flags.DEFINE_integer("count", 2000, "Number of films.", flag_values=values)
    flags.DEFINE_integer("size", 256, "Width and height in pixels, at least 32.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Equal seeds give equal films.", flag_values=values)
    flags.DEFINE_float(
        "rare_share", 0.07, "Share of films with the rarest finding; 0: ChestX-ray14's prevalences.", flag_values=values
    )
    flags.DEFINE_float("artifact_share", 0.2, "Share of films with bright artefacts.", flag_values=values)
    flags.DEFINE_list("artifact_kinds", list(ARTIFACTS), "Artefacts that may occur.", flag_values=values)
    flags.DEFINE_string("cue_finding", None, "A finding that artefacts shall give away.", flag_values=values)
    flags.DEFINE_float("cue_share", 0.9, "Share of its films with artefacts.", flag_values=values)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that draw.", flag_values=values)
    if rest := parse(argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    return values


def _summary(films: Sequence[Film]) -> str:
    counts = Counter(finding for film in films for finding in film.severities)
    healthy = sum(not film.severities for film in films)
    patients = len({film.patient for film in films})
    test = [film for film in films if film.in_test]
    in_test = Counter(finding for film in test for finding in film.severities)
    lines = [f"{len(films)} films of {patients} patients, {len(test)} films for the test; {healthy} without a finding"]
    lines += [f"  {finding:<20}{counts[finding]:>6}   {in_test[finding]:>5} in the test" for finding in FINDINGS]
    return "\n".join(lines)


@command
def main() -> None:
    values = _parse(sys.argv)
    if not values.out:
        fail("--out=DIR is needed: the folder to write")
    plan: dict[str, Any] = {
        name: values[name].value
        for name in ("count", "seed", "rare_share", "artifact_share", "artifact_kinds", "cue_finding", "cue_share")
    }
    write_films(values.out, size=values.size, workers=values.workers, **plan)
    print(_summary(plan_films(**plan)))


if __name__ == "__main__":
    main()
