"""The thorax of a simulated film: its proportions, its pose, and the layers of air and tissue that X-rays cross.

Lengths are film units: the film is 1,024 units wide whatever its pixel size, as the boxes of ChestX-ray14 are. `x` runs
from the patient's midline to the image's right (the patient's left), `y` downwards. A side is -1 (the patient's right,
the image's left) or +1. Density is counted in thicknesses of soft tissue of an average chest, air being its absence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

FILM = 1024
CM_PER_UNIT = 0.0418  # the commonest detector of the set: 2,991 pixels of 0.143 mm
AIR_GAIN = 0.63  # density removed by a full thickness of lung

_LOW, _HIGH = -512, 1536  # the range of the tables over x and y, one entry per unit
_UNITS = np.arange(_LOW, _HIGH, dtype=np.float32)

Array = np.ndarray
Box = tuple[float, float, float, float]  # x, y, width, height in film units, as BBox_List_2017.csv has them


@dataclass
class Anatomy:
    """A patient's proportions on one film; findings change them."""

    view: str
    half_width: float  # inner half-width of the rib cage
    apex: float  # y of the lung tops
    dome: dict[int, float]  # y of the top of each hemidiaphragm, by side
    dome_height: float  # how far the costophrenic angle lies below the dome
    heart_width: float  # transverse diameter of the heart
    heart_left: float  # the share of it left of the midline
    knob: float  # how far the aortic knob protrudes
    shift: float  # of the mediastinum, by volume loss or rotation
    thickness: float  # of the body, 1 for an average patient
    fat: float  # width of the soft tissue outside the ribs
    breast: float  # 0 for none
    breast_x: float
    breast_y: float
    rib_contrast: float
    rib_phase: float
    rib_spacing: float
    vessel_contrast: float
    tilt: float  # radians, in the film's plane
    scale: tuple[float, float]
    offset: tuple[float, float]
    exposure: float
    contrast: float
    bubble: float  # gas in the stomach
    arms: bool
    air: float = 1.0  # inflation: 1 is normal

    @property
    def cardiothoracic_ratio(self) -> float:
        return self.heart_width / (2 * self.half_width)

    def base(self, side: int) -> float:
        """y of a costophrenic angle."""
        return self.dome[side] + self.dome_height

    def wall(self, y: Array | float, side: int, inset: float = 0.0, drop: float = 0.0) -> Array:
        """Half-width of the inner chest wall at height `y`; `inset` and `drop` shrink it, as a collapsed lung does."""
        top = self.apex + drop
        t = np.clip((np.asarray(y, np.float32) - top) / (self.base(side) - top), 0.0, 1.0)
        return (self.half_width - inset) * np.sqrt(1.0 - (1.0 - t) ** 2.9)

    def heart_y(self) -> float:
        return 0.5 * (self.dome[-1] + self.dome[1]) - 55.0

    def mediastinum(self, y: Array | float, side: int) -> Array:
        """Distance of the mediastinal border from the midline: great vessels above, the heart below."""
        y = np.asarray(y, np.float32)
        heart = self.heart_width * (self.heart_left if side > 0 else 1 - self.heart_left)
        low = self.heart_y()
        column = 46.0 + 40.0 * np.exp(-np.maximum(y - self.apex, 0.0) / 26.0)
        # The left ventricle's border falls away slowly upwards; the right atrium is rounder.
        above, below = (195.0, 150.0) if side > 0 else (140.0, 150.0)
        bulge = np.exp(-(((y - low) / np.where(y < low, above, below)) ** 2))
        border = column + np.maximum(heart - 46.0, 10.0) * bulge
        if side > 0:
            border = border + self.knob * np.exp(-(((y - self.apex - 165.0) / 48.0) ** 2))
            border = border + 16.0 * np.exp(-(((y - self.apex - 270.0) / 45.0) ** 2))
        return border + self.shift * side


def draw_anatomy(view: str, sex: str, age: int, patient: np.random.Generator, film: np.random.Generator) -> Anatomy:
    """Draws the proportions that stay with a patient from `patient`, those of one exposure from `film`.

    An AP film is most often taken in bed: the heart is magnified, the breath shallow, the exposure flatter, the patient
    crooked, the arms beside the body.
    """
    build = patient.normal(0.0, 1.0, 16)
    pose = film.normal(0.0, 1.0, 16)
    supine = view == "AP"
    small = min(1.0, 0.72 + 0.28 * age / 18)
    breath = 10.0 * build[0] + 16.0 * pose[0] - (48.0 if supine else 0.0)
    ratio = 0.432 + 0.033 * build[1] + 0.012 * pose[1] + (0.045 if supine else 0.0) + 0.0006 * (age - 45)
    half_width = 300.0 + 15.0 * build[2] - (10.0 if sex == "F" else 0.0)
    fat = float(np.clip(112.0 + 30.0 * build[3], 50.0, 200.0))
    right = 690.0 + breath
    crooked = 2.0 if supine else 1.0
    return Anatomy(
        view=view,
        half_width=half_width,
        apex=112.0 + 9.0 * build[4] + 6.0 * pose[2],
        dome={-1: right, 1: right + 22.0 + 9.0 * build[5]},
        dome_height=float(np.clip(92.0 + 12.0 * build[6] + 8.0 * pose[3], 62.0, 130.0)),
        heart_width=2 * half_width * float(np.clip(ratio, 0.36, 0.57)),
        heart_left=0.655 + 0.02 * build[7],
        knob=float(np.clip(20.0 + 0.35 * (age - 45) + 5.0 * build[8], 8.0, 50.0)),
        shift=6.0 * crooked * pose[4],
        thickness=float(np.clip(1.0 + 0.0022 * (fat - 112.0) + 0.03 * build[9], 0.85, 1.3)),
        fat=fat,
        breast=float(np.clip(0.14 + 0.055 * build[10], 0.04, 0.28)) if sex == "F" and age > 13 else 0.0,
        breast_x=185.0 + 18.0 * build[11],
        breast_y=right - 30.0 + 35.0 * build[12],
        rib_contrast=float(np.clip(0.088 + 0.015 * build[13] - 0.0003 * (age - 45), 0.045, 0.13)),
        rib_phase=float(build[14]),
        rib_spacing=(right - 60.0) / 10.2 * (1 + 0.03 * build[15]),
        vessel_contrast=float(np.clip(0.2 + 0.03 * pose[5], 0.12, 0.28)) * (1.12 if supine else 1.0),
        tilt=float(np.radians(np.clip(1.3 * crooked * pose[6], -7, 7))),
        scale=(small * (0.99 + 0.05 * pose[7]), small * (1.0 + 0.05 * pose[8])),
        offset=(14.0 * crooked * pose[9], 16.0 * crooked * pose[10]),
        exposure=float(np.clip(1.0 + 0.07 * crooked * pose[11], 0.75, 1.35)),
        contrast=float(np.clip((0.88 if supine else 1.0) + 0.09 * pose[12], 0.58, 1.22)),
        bubble=float(np.clip(0.5 * pose[13] + 0.2, 0.0, 1.0)) * (0.5 if supine else 1.0),
        arms=supine and pose[14] > -0.2,
    )


@dataclass
class Scene:
    """The layers of one film at one size; findings change them, `density` sums them.

    `air` is the thickness of air (H, W), 1 in the middle of a healthy lung; `markings` the vessels in it; `solid` all
    that is added outside the lung. Curves over x or y are tables looked up a pixel at a time, so a layer costs little.
    """

    anatomy: Anatomy
    size: int
    x: Array = field(init=False)
    y: Array = field(init=False)
    air: Array = field(init=False)
    solid: Array = field(init=False)
    markings: Array = field(init=False)

    def __post_init__(self) -> None:
        a = self.anatomy
        centres = (np.arange(self.size, dtype=np.float32) + 0.5) * (FILM / self.size)
        across = centres[None, :] - FILM / 2 - a.offset[0]
        down = centres[:, None] - FILM / 2 - a.offset[1]
        cos, sin = np.cos(a.tilt), np.sin(a.tilt)
        self.x = ((across * cos + down * sin) / a.scale[0]).astype(np.float32)
        self.y = ((down * cos - across * sin) / a.scale[1] + FILM / 2).astype(np.float32)
        self.air = self._air()
        self.solid = np.zeros_like(self.air)
        self.markings = np.zeros_like(self.air)

    # Geometry

    @cached_property
    def distance(self) -> Array:
        """Unsigned distance from the midline."""
        return np.abs(self.x)

    @cached_property
    def left(self) -> Array:
        """True on the patient's left."""
        return self.x > 0

    @cached_property
    def _row(self) -> Array:
        return np.clip(self.y - _LOW, 0, _UNITS.size - 1).astype(np.intp)

    @cached_property
    def _column(self) -> Array:
        return np.clip(self.x - _LOW, 0, _UNITS.size - 1).astype(np.intp)

    def over_y(self, right: Array, left: Array | None = None) -> Array:
        """Spreads a table over y, or one for each side, over the film."""
        if left is None:
            return right.take(self._row)
        both = np.concatenate([right, left])
        return both.take(self._row + self.left * _UNITS.size)

    def side(self, side: int) -> Array:
        """A soft mask, 1 on one side of the midline."""
        return np.clip(self.x * (side / 8.0) + 0.5, 0.0, 1.0)

    @cached_property
    def wall(self) -> Array:
        """Half-width of the inner chest wall at every pixel's height."""
        return self.over_y(self.anatomy.wall(_UNITS, -1), self.anatomy.wall(_UNITS, 1))

    @cached_property
    def wall_slope(self) -> Array:
        """The ratio of the horizontal distance to the wall to the shortest one."""
        slopes = [np.hypot(1.0, np.gradient(self.anatomy.wall(_UNITS, side))).astype(np.float32) for side in (-1, 1)]
        return self.over_y(slopes[0], slopes[1])

    @cached_property
    def inside(self) -> Array:
        """Shortest distance to the chest wall, positive inside."""
        return (self.wall - self.distance) / self.wall_slope

    @cached_property
    def border(self) -> Array:
        """Distance of the mediastinal border from the midline at every pixel's height, on its side."""
        return self.over_y(self.anatomy.mediastinum(_UNITS, -1), self.anatomy.mediastinum(_UNITS, 1))

    @cached_property
    def above_diaphragm(self) -> Array:
        """Height above the diaphragm, negative below it."""
        a = self.anatomy
        u = np.abs(_UNITS)
        middle = 0.5 * a.half_width
        outer = np.maximum(u - middle, 0.0) / (a.half_width - middle)
        inner = np.maximum(middle - u, 0.0) / middle
        dome = np.where(_UNITS < 0, a.dome[-1], a.dome[1])
        curve = dome + a.dome_height * (np.minimum(outer, 1.2) ** 2 + 0.32 * inner**2)
        return curve.astype(np.float32).take(self._column) - self.y

    def to_film(self, x: Array | float, y: Array | float) -> tuple[Array, Array]:
        """Body coordinates to film units."""
        a = self.anatomy
        x, y = np.asarray(x) * a.scale[0], (np.asarray(y) - FILM / 2) * a.scale[1]
        cos, sin = np.cos(a.tilt), np.sin(a.tilt)
        return x * cos - y * sin + FILM / 2 + a.offset[0], x * sin + y * cos + FILM / 2 + a.offset[1]

    def box(self, x0: Array | float, y0: Array | float, x1: Array | float, y1: Array | float) -> Box:
        """The box on the film around a rectangle of the body."""
        xs, ys = self.to_film(np.array([x0, x1, x0, x1]), np.array([y0, y0, y1, y1]))
        left, top = np.clip([xs.min(), ys.min()], 0, FILM - 1)
        right, bottom = np.clip([xs.max(), ys.max()], 1, FILM)
        return float(left), float(top), float(right - left), float(bottom - top)

    def window(self, x: float, y: float, reach_x: float, reach_y: float | None = None) -> tuple[slice, slice]:
        """The rows and columns that can show something within `reach` of a point of the body."""
        reach_y = reach_x if reach_y is None else reach_y
        left, top, width, height = self.box(x - reach_x, y - reach_y, x + reach_x, y + reach_y)
        step = self.size / FILM
        rows = slice(max(0, int(top * step) - 1), int((top + height) * step) + 2)
        return rows, slice(max(0, int(left * step) - 1), int((left + width) * step) + 2)

    # Drawing

    def texture(self, rng: np.random.Generator, cells: int) -> Array:
        """Smooth noise (H, W) of standard deviation 1, with `cells` cells across the film: the same at every size."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.size, self.size), Image.Resampling.BICUBIC)) * np.float32(1.25)

    def strokes(self, paths: Sequence[Array], widths: Sequence[float], values: Sequence[float]) -> Array:
        """Draws polylines (each (n, 2), body coordinates) of given widths in film units; returns (H, W) in 0..1."""
        points = np.concatenate(paths)
        points = np.stack(self.to_film(points[:, 0], points[:, 1]), axis=-1)
        ends = np.cumsum([len(path) for path in paths])[:-1]
        return draw_strokes(self.size, np.split(points, ends), widths, values)

    def fill(self, amount: Array, where: tuple[slice, slice] = (slice(None), slice(None))) -> None:
        """Replaces a fraction of the air by fluid or tissue: borders with other tissue vanish (the silhouette sign)."""
        self.air[where] *= 1.0 - amount
        self.markings[where] *= 1.0 - 0.8 * amount

    # The healthy chest

    def _air(self) -> Array:
        lateral = np.sqrt(np.clip(self.inside / 75.0, 0.0, 1.0))
        medial = self.distance - self.border
        # There is a little lung behind the heart, too.
        depth = np.where(medial > 0, 1.0 - 0.26 * np.exp(-np.maximum(medial, 0) / 55.0), 0.0)
        behind = np.clip((self.distance - 40.0) / 30.0, 0.0, 1.0) * 0.2
        edge = np.clip(medial / 9.0 + 0.5, 0.0, 1.0)
        up = self.above_diaphragm
        low = np.clip(up / 9.0 + 0.5, 0.0, 1.0) * (0.74 + 0.26 * np.clip(up / 170.0, 0.0, 1.0))
        return (self.anatomy.air * lateral * low * (behind + edge * (depth - behind))).astype(np.float32)

    def body(self) -> Array:
        """Thickness of the soft tissue (H, W): neck, shoulders, trunk, and the arms of a patient in bed."""
        a = self.anatomy
        trunk = a.half_width + 14.0 + a.fat
        reach = 570.0 if a.arms else 720.0  # raised arms leave the film sideways
        heights = [_LOW, -40, 30, 80, 130, 180, 240, 300, 370, 420, 470, 700, _HIGH]
        widths = [108, 112, 130, 215, 345, 435, 0.75 * reach, reach, reach, 0.3 * reach + 0.7 * trunk]
        widths += [trunk, trunk + 6, trunk + 30]
        outline = self.over_y(np.interp(_UNITS, heights, widths).astype(np.float32))
        depth = self.over_y(
            np.interp(_UNITS, [_LOW, 60, 200, 420, 700, 900, _HIGH], [0.8, 0.8, 0.84, 0.95, 1.06, 1.16, 1.2]).astype(
                np.float32
            )
        )
        round_off = np.sqrt(np.clip((outline - self.distance) / 120.0, 0.0, 1.0))
        outside = np.clip((self.distance - self.wall) / 150.0, 0.0, 1.0)
        body = depth * round_off * (1.0 - 0.3 * outside)
        if a.arms:
            arm = 1.0 - ((self.distance - 505.0 - 0.02 * self.y) / 70.0) ** 2
            arm *= np.clip((self.y - 280.0) / 90.0, 0.0, 1.0)
            body = np.maximum(body, 0.6 * np.sqrt(np.maximum(arm, 0.0)))
        return body * np.float32(a.thickness)

    def add_heart(self) -> None:
        """The mediastinum, which contrasts with the lung because it has no air; the heart is thicker still."""
        thick = np.clip((self.border - self.distance) / 70.0, 0.0, 1.0)
        up = np.clip(self.above_diaphragm / 30.0 + 1.0, 0.0, 1.0)
        self.solid += 0.06 * np.sqrt(thick) * up

    def add_trachea(self) -> None:
        """A column of air in the neck, splitting at the carina."""
        a = self.anatomy
        carina = a.apex + 235.0
        paths = [np.array([[0.0, -60.0], [a.shift, carina]])]
        paths += [np.array([[a.shift, carina], [a.shift + side * 62.0, carina + 70.0]]) for side in (-1, 1)]
        self.solid -= 0.12 * self.strokes(paths, [34.0, 20.0, 20.0], [1.0, 0.6, 0.6])

    def add_bones(self) -> None:
        """Spine, ribs, clavicles, shoulder blades, the heads of the arms."""
        a = self.anatomy
        x, y, u = self.x, self.y, self.distance
        disc = 0.8 + 0.2 * np.cos(2 * np.pi * (_UNITS - a.rib_phase * 20) / (0.82 * a.rib_spacing)) ** 2
        spine = np.clip((54.0 - np.abs(x - 0.2 * a.shift)) / 26.0, 0.0, 1.0)
        self.solid += 0.15 * spine * self.over_y(disc.astype(np.float32))
        self.solid += a.rib_contrast * self._ribs()
        collar = y - (206.0 + a.apex - 112.0) + 0.2 * u - 14.0 * np.sin(u / 55.0)
        bone = np.clip((17.0 - np.abs(collar)) / 6.0, 0.0, 1.0) * (0.65 + 0.35 * np.minimum(np.abs(collar) / 14.0, 1.0))
        self.solid += 0.1 * bone * np.clip((u - 22.0) / 10.0, 0.0, 1.0) * np.clip((315.0 - u) / 14.0, 0.0, 1.0)
        # Arms forward (PA) rotate the shoulder blades out of the lungs; in bed they overlie them.
        blade_u = 285.0 if a.view == "AP" else 360.0
        blade = (u - blade_u + 0.28 * (y - 300.0)) / 70.0
        blade_mask = np.clip((1.0 - np.abs(blade)) * 9.0, 0.0, 1.0) * np.clip((y - 165.0) / 30.0, 0.0, 1.0)
        blade_mask *= np.clip((430.0 - y - 0.3 * np.abs(blade) * 90.0) / 40.0, 0.0, 1.0)
        self.solid += 0.055 * blade_mask * (0.7 + 0.3 * np.minimum(np.abs(blade), 1.0))
        head = ((u - 424.0) / 52.0) ** 2 + ((y - 222.0) / 58.0) ** 2
        self.solid += 0.1 * np.sqrt(np.clip((1.0 - head) * 1.5, 0.0, 1.0))

    def _ribs(self) -> Array:
        """Ten pairs at once: a rib is a band of a curved coordinate that counts ribs."""
        a = self.anatomy
        w = np.minimum(self.distance / (0.02 * a.half_width + self.wall), 1.1)
        near = np.clip((self.inside + 26.0) / 8.0, 0.0, 1.0) * np.clip(1.3 - self.above_diaphragm / -110.0, 0.0, 1.0)
        top = np.clip((self.y - a.apex + 30.0) / 20.0, 0.0, 1.0)
        phase = 0.1 * a.rib_phase
        w2 = w * w
        back = (self.y - a.apex + 42.0 * w - 128.0 * w2 * w) / a.rib_spacing + phase
        front = (self.y - a.apex - 215.0 + 178.0 * w2 - 0.07 * self.y) / (1.12 * a.rib_spacing) + phase + 0.3
        bands = _BACK_RIB.take((np.mod(back, 1.0) * 256).astype(np.intp))
        bands *= np.clip((w - 0.1) / 0.1, 0.0, 1.0)
        front_bands = _FRONT_RIB.take((np.mod(front, 1.0) * 256).astype(np.intp))
        bands += 0.7 * front_bands * np.clip((w - 0.42) / 0.2, 0.0, 1.0)
        # Towards the wall a rib runs along the beam and is denser.
        return bands * near * top * (0.8 + 0.7 * w2 * w2)

    def add_soft(self) -> None:
        """Breasts, and gas below the left hemidiaphragm."""
        a = self.anatomy
        if a.breast:
            ry = 95.0 + 150.0 * a.breast
            round_ = ((self.distance - a.breast_x) / 140.0) ** 2 + ((self.y - a.breast_y) / ry) ** 2
            self.solid += a.breast * np.sqrt(np.maximum(1.0 - round_, 0.0))
        if a.bubble:
            x, y = 120.0, a.dome[1] + 55.0
            here = self.window(x, y, 80.0, 40.0)
            gas = 1.0 - ((self.x[here] - x) / 75.0) ** 2 - ((self.y[here] - y) / 34.0) ** 2
            self.solid[here] -= 0.34 * a.bubble * np.sqrt(np.maximum(gas, 0.0))

    def add_vessels(self, rng: np.random.Generator) -> None:
        """Vessels that branch from each hilum, taper outwards and are wider at the base."""
        a = self.anatomy
        trunks = 28
        side = np.repeat([-1.0, 1.0], trunks // 2)
        angle = np.tile(np.linspace(-1.3, 1.45, trunks // 2), 2) + rng.normal(0, 0.16, trunks)
        length = rng.uniform(0.55, 1.1, trunks) * (0.6 + 0.32 * np.sin(np.maximum(angle, -0.3))) * a.half_width
        roots = np.stack(
            [
                side * (70.0 + 22.0 * np.cos(angle)) + a.shift + rng.normal(0, 6.0, trunks),
                a.apex + 272.0 + np.where(side < 0, 14.0, 0.0) + 58.0 * np.sin(angle) + rng.normal(0, 10.0, trunks),
            ],
            axis=-1,
        )
        # A trunk is a curve through five points; a branch leaves it at each of the inner three.
        steps = np.linspace(0.0, 1.0, 5)
        bend = angle[:, None] + rng.normal(0, 0.35, (trunks, 1)) * steps
        reach = length[:, None] * steps
        way = np.stack([side[:, None] * np.cos(bend) * reach, np.sin(bend) * reach], axis=-1) + roots[:, None]
        branch_angle = angle[:, None] + rng.choice([-1.0, 1.0], (trunks, 3)) * rng.uniform(0.35, 0.9, (trunks, 3))
        branch = rng.uniform(0.22, 0.45, (trunks, 3, 1)) * length[:, None, None]
        tips = way[:, 1:4] + branch * np.stack([side[:, None] * np.cos(branch_angle), np.sin(branch_angle)], axis=-1)
        paths: list[Array] = list(np.stack([way[:, 1:4], tips], axis=2).reshape(-1, 2, 2))
        widths, values = [4.0] * len(paths), [0.32] * len(paths)
        for at, share in ((3, 0.35), (2, 0.5), (1, 0.75), (0, 1.0)):
            paths += list(way[:, at : at + 2])
            widths += [10.0 * share + 1.0] * trunks
            values += [0.26 + 0.4 * share] * trunks
        lines = self.strokes(paths, widths, values)
        root_y = a.apex + 278.0
        hilum = np.exp(-(((self.distance - 84.0) / 34.0) ** 2) - ((self.y - root_y) / 62.0) ** 2)
        self.markings += np.float32(a.vessel_contrast) * (lines + 0.55 * hilum)

    def density(self) -> Array:
        """The density that the beam has crossed at each pixel (H, W)."""
        return self.body() - AIR_GAIN * self.air + self.solid + self.markings * np.minimum(self.air, 1.0)


def healthy_scene(anatomy: Anatomy, size: int, rng: np.random.Generator) -> Scene:
    """A chest without findings: every layer drawn, none summed yet."""
    scene = Scene(anatomy, size)
    scene.add_vessels(rng)
    scene.markings += 0.02 * scene.texture(rng, 44) + 0.02 * scene.texture(rng, 110)
    scene.solid += 0.022 * scene.texture(rng, 9)
    scene.add_heart()
    scene.add_trachea()
    scene.add_bones()
    scene.add_soft()
    return scene


def draw_strokes(size: int, lines: Sequence[Array], widths: Sequence[float], values: Sequence[float]) -> Array:
    """Draws polylines ((n, 2), film units) on a film of `size` pixels; returns (H, W) float32 in 0..1.

    They are drawn on a finer canvas and averaged down, so that a thin line fades at a small size as it would on a film.
    """
    fold = max(1, 512 // size)
    scale = size * fold / FILM
    canvas = Image.new("L", (size * fold, size * fold))
    draw = ImageDraw.Draw(canvas)
    for line, width, value in zip(lines, widths, values, strict=True):
        thick = width * scale
        shade = int(255 * value * min(1.0, thick))
        draw.line((line * scale).ravel().tolist(), fill=shade, width=max(1, round(thick)), joint="curve")
    return np.asarray(canvas.reduce(fold) if fold > 1 else canvas, np.float32) / np.float32(255)


def _rib(half: float) -> Array:
    """One rib across: a band a little denser at both edges, where the cortex lies along the beam."""
    across = np.abs((np.arange(256) + 0.5) / 256 - 0.5)
    band = np.clip((half - across) / 0.045, 0.0, 1.0)
    return (band * (0.7 + 0.45 * np.exp(-(((across - half + 0.05) / 0.05) ** 2)))).astype(np.float32)


_BACK_RIB = _rib(0.19)
_FRONT_RIB = _rib(0.17)
