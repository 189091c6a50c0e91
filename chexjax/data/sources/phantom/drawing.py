"""One simulated film: its row in the table, its chest, its exposure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from chexjax.data.sources.phantom.anatomy import FILM, Anatomy, Array, Box, Scene, draw_anatomy, healthy_scene
from chexjax.data.sources.phantom.findings import ARTIFACT_DRAWERS, CHRONIC, DRAWERS, SHAPES
from chexjax.findings import FINDINGS, NO_FINDING

ARTIFACTS: Final = tuple(ARTIFACT_DRAWERS)

# The purpose of each of a film's generators; never renumber them, or every film changes.
PLAN, _BODY, _POSE, _ARTIFACT, _NOISE, _FINDING = range(6)


@dataclass(frozen=True)
class Film:
    """One row of the table. `severities` maps the findings that are present to 0..1, from barely visible to obvious."""

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
        """The cell in the column `Finding Labels`."""
        return "|".join(sorted(self.severities)) or NO_FINDING

    @property
    def in_test(self) -> bool:
        """Every fourth patient is a test patient; patients are exchangeable, so no draw is needed."""
        return self.patient % 4 == 2

    def generator(self, purpose: int, *, patient_only: bool = False, part: int = 0) -> np.random.Generator:
        """A separate generator for each purpose, either the same for all films of a patient or for this film alone."""
        visit = 0 if patient_only else self.follow_up + 1
        return generator(self.seed, self.patient, visit, purpose, part)


class FindingBox(NamedTuple):
    """A finding's box in film units (1,024 across the film), whatever the film's size."""

    finding: str
    box: Box


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def film_anatomy(film: Film) -> Anatomy:
    """The proportions of the film's chest, as changed by its findings."""
    anatomy = draw_anatomy(
        film.view, film.sex, film.age, film.generator(_BODY, patient_only=True), film.generator(_POSE)
    )
    for finding, shape in SHAPES.items():
        if finding in film.severities:
            shape(anatomy, film.severities[finding], _finding_generator(film, finding))
    return anatomy


def render_film(film: Film, size: int = 256) -> tuple[Array, list[FindingBox]]:
    """Draws a film, uint8 (size, size), and returns it with the boxes of the findings that have a location.

    Changing only `severities` or `artifacts` (`dataclasses.replace`) changes nothing else in the film. Only the grain
    depends on the size: a pixel of a smaller film averages more quanta.
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
    """From density to grey levels: film curve, exposure, uneven scatter, sometimes a collimated edge."""
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
    """A mask (H, W), low where the beam was collimated: up to 5 % of the film on each side, slightly tilted."""
    at = (np.arange(scene.size, dtype=np.float32) + 0.5) * (FILM / scene.size)
    x, y = at[None, :], at[:, None]
    askew = 0.05 * (edges[4] - 0.5)
    widths = [50.0 * max(0.0, edge - 0.3) for edge in edges[:4]]
    inside = np.minimum(x - widths[0] + askew * y, FILM - x - widths[1] - askew * y)
    inside = np.minimum(inside, np.minimum(y - widths[2] - askew * x, FILM - y - widths[3] + askew * x))
    return np.clip((inside + 30.0) / 8.0, 0.04, 1.0)
