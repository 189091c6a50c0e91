"""The form of `POST /predict`'s JSON. From these classes comes the description in `/openapi.json`."""

from dataclasses import dataclass

from chexjax.data.verdict import Status


@dataclass(frozen=True)
class Box:
    """A region in pixels of the film as it is shown (upright, with square pixels)."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Finding:
    """One finding. Without a known threshold `called` is null.

    With `maps=1`, `boxes` are given for called findings, and `map_note` says why a finding's map, and so its boxes, may
    show the wrong place; it is null where the map was shown to point, or was never checked (`chexjax check-maps`).
    """

    finding: str
    probability: float
    threshold: float | None
    called: bool | None
    boxes: list[Box] | None = None
    map_note: str | None = None


@dataclass(frozen=True)
class Overlay:
    """The film under a finding's map, as PNG in base64."""

    finding: str
    png: str


@dataclass(frozen=True)
class Model:
    """What made the answer: `checkpoint` is the sha256 of the weights, `version` chexjax's own."""

    checkpoint: str
    step: int
    version: str
    networks: list[str]
    calibrated: bool


@dataclass(frozen=True)
class Answer:
    """What is said of a film.

    `status` is ok, doubtful or refused; a refused film has no findings. `findings` come in the order of rank: the
    furthest above its threshold first. `distance` is how unlike the training films it is, above 1 doubtful; null where
    that is not known.
    """

    status: Status
    reasons: list[str]
    width: int
    height: int
    distance: float | None
    findings: list[Finding]
    overlays: list[Overlay]
    model: Model


@dataclass(frozen=True)
class Trouble:
    """Why there is no answer."""

    detail: str
