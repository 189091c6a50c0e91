"""The 14 findings, each drawn after its radiological description, and the bright artefacts that lie over films.

A finding has a severity in 0..1, from barely visible to frank. Some move the anatomy before the film is drawn
(`SHAPES`: volume loss, a large heart, over-inflation). Each has a drawer (`DRAWERS`), which changes the layers of a
`Scene` and returns boxes if the finding has a location. Both get generators with the same seed and draw the side first,
so they agree on it.

The descriptions follow Hansell et al., "Fleischner Society: Glossary of Terms for Thoracic Imaging", Radiology 2008
(doi:10.1148/radiol.2462070712).
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from chexjax.data.sources.phantom.anatomy import CM_PER_UNIT, FILM, Anatomy, Array, Box, Scene, draw_strokes

Shaper = Callable[[Anatomy, float, np.random.Generator], None]
Drawer = Callable[[Scene, float, np.random.Generator], list[Box]]
ArtifactDrawer = Callable[[Scene, np.random.Generator], Array]

MASS_CM: Final = 3.0  # the line between a nodule and a mass (Fleischner glossary)


def _side(rng: np.random.Generator) -> int:
    return -1 if rng.random() < 0.5 else 1


def _soft(distance: Array, width: float) -> Array:
    """A smooth step from 0 to 1, `width` wide, where a distance crosses zero."""
    return np.clip(distance / np.float32(width) + 0.5, 0.0, 1.0)


def _draw_centre(scene: Scene, rng: np.random.Generator, reach: float) -> tuple[int, float, float]:
    """A side, and a point in open lung with room for `reach` around it, or as much room as there is."""
    a = scene.anatomy
    side = _side(rng)
    y = rng.uniform(a.apex + 60.0 + 0.5 * reach, a.dome[side] - 25.0 - 0.5 * reach)
    wall = float(a.wall(y, side))
    inner = float(a.mediastinum(y, side))
    low, high = inner + 0.55 * reach, wall - 0.55 * reach
    u = rng.uniform(low, high) if high > low else 0.5 * (inner + wall)
    return side, side * u, y


# Volume and shape


def shrink_lung(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Atelectasis: the diaphragm rises and the mediastinum is drawn over to the collapsed side."""
    side = _side(rng)
    anatomy.dome[side] -= 22.0 + 62.0 * severity
    anatomy.shift += side * (6.0 + 26.0 * severity)


def enlarge_heart(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Cardiomegaly: a cardiothoracic ratio above 0.5 (0.55 in bed, where the heart is magnified)."""
    threshold = 0.55 if anatomy.view == "AP" else 0.505
    ratio = threshold + 0.14 * severity
    anatomy.heart_width = 2 * anatomy.half_width * max(ratio, anatomy.cardiothoracic_ratio + 0.03)
    anatomy.heart_left = min(anatomy.heart_left + 0.03, 0.7)


def push_mediastinum(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Pneumothorax: only a large one pushes the mediastinum away."""
    anatomy.shift -= _side(rng) * 26.0 * max(severity - 0.7, 0.0) / 0.3


def overload_heart(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Edema is most often cardiac, so the heart is a little larger."""
    anatomy.heart_width *= 1.03 + 0.05 * severity


def overinflate(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Emphysema: low, flat diaphragms, a wide chest, a narrow heart."""
    for side in (-1, 1):
        anatomy.dome[side] += 22.0 + 52.0 * severity
    anatomy.dome_height *= 0.72 - 0.42 * severity
    anatomy.half_width *= 1.01 + 0.04 * severity
    anatomy.heart_width *= 0.95 - 0.12 * severity
    anatomy.air *= 1.03 + 0.13 * severity


def shrink_bases(anatomy: Anatomy, severity: float, rng: np.random.Generator) -> None:
    """Fibrosis: both lungs lose volume."""
    for side in (-1, 1):
        anatomy.dome[side] -= 10.0 + 26.0 * severity


# Densities


def draw_atelectasis(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """Plates above the diaphragm, or a collapsed lobe: a dense wedge whose fissure is drawn in towards the hilum."""
    a, side = scene.anatomy, _side(rng)
    kind = rng.random()
    if kind < 0.5:
        return _draw_plates(scene, severity, rng, side)
    hilum_y = a.apex + 285.0
    u = scene.x * side
    if kind < 0.7:  # an upper lobe: the fissure rises sideways and is concave below
        rise = rng.uniform(0.25, 0.5)
        fissure = hilum_y - 15.0 - rise * np.clip(u, 0, None) + 55.0 * np.sin(np.clip(u / a.half_width, 0, 1) * np.pi)
        mask = _soft(fissure - scene.y, 8.0)
        box = scene.box(side * 45.0, a.apex, side * a.wall(hilum_y - 40.0, side), hilum_y + 10.0)
    else:  # a lower lobe: a triangle beside the spine and behind the heart
        foot = (0.45 + 0.4 * severity) * a.half_width
        bottom = a.dome[side] + 0.3 * a.dome_height
        edge = 40.0 + foot * (scene.y - hilum_y) / (bottom - hilum_y)
        mask = _soft(edge - u, 9.0) * _soft(scene.y - hilum_y, 40.0)
        box = scene.box(side * 40.0, hilum_y + 20.0, side * (40.0 + foot), bottom)
    scene.fill((0.3 + 0.45 * severity) * mask * scene.side(side))
    return [box]


def _draw_plates(scene: Scene, severity: float, rng: np.random.Generator, side: int) -> list[Box]:
    """Plate-like (discoid) atelectasis: dense bands, near horizontal, a few centimetres long."""
    a = scene.anatomy
    corners = []
    for plate in range(2 + int(rng.random() < severity)):
        x = side * a.half_width * rng.uniform(0.45, 0.68)
        y = a.dome[side] - 30.0 - 52.0 * plate - rng.uniform(0.0, 20.0)
        half = rng.uniform(60.0, 90.0) + 30.0 * severity
        thick = rng.uniform(6.0, 9.0) + 6.0 * severity
        slope = rng.uniform(-0.3, 0.3)
        here = scene.window(x, y, half + 40.0)
        dx, dy = scene.x[here] - x, scene.y[here] - y
        along, across = dx + slope * dy, dy - slope * dx
        mask = np.exp(-((across / thick) ** 2)) * _soft(half - np.abs(along), 30.0)
        scene.fill((0.38 + 0.42 * severity) * mask, here)
        rise = abs(slope) * half + thick
        corners.append((x - half, y - rise, x + half, y + rise))
    x0, y0, x1, y1 = np.array(corners).T
    return [scene.box(x0.min(), y0.min(), x1.max(), y1.max())]


def draw_cardiomegaly(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """Draws nothing: `enlarge_heart` has changed the shape. The box is the heart's."""
    a = scene.anatomy
    y = a.heart_y()
    right, left = float(a.mediastinum(y, -1)), float(a.mediastinum(y, 1))
    return [scene.box(-right, y - 170.0, left, y + 105.0)]


def draw_effusion(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """Fluid blunts the costophrenic angle and climbs the wall in a meniscus; in bed it veils the lung as well."""
    a, side = scene.anatomy, _side(rng)
    height = 45.0 + 30.0 * rng.random() + 250.0 * severity**1.5
    supine = a.view == "AP"
    if supine:
        height *= 0.8
    level = a.base(side) - height
    climb = (35.0 + 70.0 * severity) * np.exp(-np.maximum(scene.inside, 0.0) / 38.0)
    surface = level + 0.35 * height - climb - 0.35 * height * np.clip(scene.distance / a.half_width, 0.0, 1.0)
    mask = _soft(scene.y - surface, 60.0 if supine else 26.0)
    if supine:
        veil = np.clip((scene.y - a.apex) / (a.base(side) - a.apex), 0.0, 1.0)
        mask = np.maximum(mask, 0.34 * severity * veil)
    mask *= scene.side(side)
    scene.solid += 0.07 * mask * np.minimum(scene.air, 1.0)
    scene.fill(0.93 * mask)
    inner = a.half_width * (0.62 - 0.5 * severity)
    return [scene.box(side * inner, level - 30.0 - 45.0 * severity, side * a.half_width, a.base(side))]


def draw_infiltration(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """Faint patches without a border, in any part of either lung."""
    texture = scene.texture(rng, 22)
    boxes = []
    for _ in range(int(rng.integers(2, 5))):
        reach = rng.uniform(55.0, 85.0) + 30.0 * severity
        _, x, y = _draw_centre(scene, rng, 0.6 * reach)
        here = scene.window(x, y, 2.2 * reach)
        away = ((scene.x[here] - x) / reach) ** 2 + ((scene.y[here] - y) / (1.15 * reach)) ** 2
        patch = np.exp(-away) * np.clip(0.95 + 0.3 * texture[here], 0.3, 1.6)
        scene.fill(np.minimum((0.2 + 0.28 * severity) * patch, 0.8), here)
        boxes.append((reach, scene.box(x - reach, y - 1.15 * reach, x + reach, y + 1.15 * reach)))
    return [max(boxes)[1]]


def draw_mass(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """One rounded opacity of 3.3 to 8 cm with a lobed border."""
    diameter = 1.1 * MASS_CM + 4.7 * severity
    _, x, y = _draw_centre(scene, rng, diameter / CM_PER_UNIT / 2)
    return [_draw_ball(scene, rng, x, y, diameter, lobes=0.09)]


def draw_nodule(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """One to three rounded opacities of 1.2 to 2.9 cm."""
    diameter = 1.2 + 1.7 * severity
    boxes = []
    for _ in range(int(rng.integers(1, 4))):
        _, x, y = _draw_centre(scene, rng, diameter / CM_PER_UNIT / 2)
        boxes.append(_draw_ball(scene, rng, x, y, diameter, lobes=0.04))
        diameter *= rng.uniform(0.75, 1.0)
    return boxes


def _draw_ball(scene: Scene, rng: np.random.Generator, x: float, y: float, diameter_cm: float, lobes: float) -> Box:
    """A ball of tissue, round on the film, as dense as it is thick, its border crisp against the lung."""
    radius = diameter_cm / CM_PER_UNIT / 2
    across, down = scene.anatomy.scale
    here = scene.window(x, y, radius / across + 8.0, radius / down + 8.0)
    dx, dy = (scene.x[here] - x) * across, (scene.y[here] - y) * down
    angle = np.arctan2(dy, dx)
    bumps, start = rng.integers(3, 7), rng.uniform(0, 2 * np.pi)
    edge = radius * (1.0 - lobes + lobes * np.sin(bumps * angle + start))
    chord = np.sqrt(np.maximum(1.0 - (dx**2 + dy**2) / edge**2, 0.0))
    scene.markings[here] *= 1.0 - 0.7 * np.minimum(chord * 2, 1.0)
    scene.solid[here] += (0.2 + 0.03 * diameter_cm) * chord
    centre_x, centre_y = map(float, scene.to_film(x, y))
    return centre_x - radius, centre_y - radius, 2 * radius, 2 * radius


def draw_pneumonia(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A lobe, patchily opaque, cut off sharply where it meets a fissure."""
    a, side = scene.anatomy, _side(rng)
    lobe = rng.random()
    fissure = a.apex + 300.0 + rng.uniform(-20.0, 20.0) + 0.06 * scene.distance
    outer = 0.93 * a.half_width
    if lobe < 0.35:  # an upper lobe, down to the horizontal fissure
        mask = _soft(fissure - scene.y, 9.0) * _soft(scene.y - a.apex - 50.0 - 60.0 * rng.random(), 130.0)
        top, bottom, inner = a.apex + 60.0, a.apex + 310.0, 70.0
    elif lobe < 0.65:  # the middle lobe or the lingula: below the fissure, next to the heart, whose border it takes
        mask = _soft(scene.y - fissure, 9.0) * _soft(scene.border + 130.0 - scene.distance, 120.0)
        top, bottom, inner = (
            a.apex + 310.0,
            a.dome[side] + 10.0,
            float(a.mediastinum(a.heart_y(), side)) - 10.0,
        )
        outer = inner + 145.0
    else:  # a lower lobe: fading upwards, down to the diaphragm
        mask = _soft(scene.y - fissure - 120.0, 150.0)
        top, bottom, inner = a.apex + 390.0, a.dome[side] + 30.0, 90.0
    patches = np.clip(0.9 + 0.22 * scene.texture(rng, 24) + 0.2 * scene.texture(rng, 56), 0.25, 1.5)
    scene.fill(np.minimum((0.3 + 0.38 * severity) * mask * patches * scene.side(side), 0.92))
    return [scene.box(side * inner, top, side * outer, bottom)]


def draw_pneumothorax(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """The lung falls away from the wall: its edge a thin white line, beyond it dark, empty space without vessels."""
    a, side = scene.anatomy, _side(rng)
    drop, inset = 16.0 + 150.0 * severity, 7.0 + 95.0 * severity
    heights = np.arange(-512, 1536, dtype=np.float32)
    edge = a.wall(heights, side, inset, drop)
    slope = np.hypot(1.0, np.gradient(edge)).astype(np.float32)
    beyond = (scene.distance - scene.over_y(edge)) / scene.over_y(slope)
    beyond = np.where(scene.y < a.apex + drop, np.maximum(a.apex + drop - scene.y, beyond), beyond)
    half = scene.side(side) * (scene.air > 0.02)
    space = _soft(beyond, 4.0) * half
    full = np.sqrt(np.clip(scene.inside / 40.0, 0.0, 1.0)) * 1.04
    lung = half - space
    scene.air *= 1.0 - (0.05 + 0.22 * severity) * lung  # the collapsing lung is denser
    scene.air += space * np.maximum(full - scene.air, 0.0) * _soft(scene.distance - scene.border, 9.0)
    scene.markings *= 1.0 - space
    pixel = FILM / scene.size
    width = max(5.0, pixel)
    scene.solid += 0.08 * (5.0 / width) * np.clip(1.5 - np.abs(beyond) / width, 0.0, 1.0) * half
    reach = a.apex + (0.35 + 0.65 * severity) * (a.dome[side] - a.apex)
    inner = float(a.wall(reach, side)) * (0.25 if severity > 0.15 else 0.4)
    return [scene.box(side * inner, a.apex, side * a.wall(reach, side), reach)]


def draw_consolidation(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A segment, homogeneously white; the bronchi in it keep their air and show as dark branches."""
    a = scene.anatomy
    reach = 62.0 + 60.0 * severity
    side, x, y = _draw_centre(scene, rng, reach)
    here = scene.window(x, y, 1.7 * reach)
    dx, dy = scene.x[here] - x, scene.y[here] - y
    angle = np.arctan2(dy, dx)
    start = rng.uniform(0, 2 * np.pi, 2)
    edge = reach * (1.0 + 0.16 * np.sin(2 * angle + start[0]) + 0.1 * np.sin(5 * angle + start[1]))
    mask = _soft(edge - np.hypot(dx, dy), 30.0)
    hilum = np.array([side * 70.0, a.apex + 285.0])
    centre = np.array([x, y])
    toward = (centre - hilum) / max(float(np.hypot(*(centre - hilum))), 1.0)
    across = np.array([-toward[1], toward[0]])
    root = centre - 0.8 * reach * toward
    branches = []
    for bend in (-0.55, 0.05, 0.6):
        stem = root + np.outer([0.0, 0.45, 0.9, 1.3], reach * (toward + bend * across))
        stem[1:] += rng.normal(0, 0.06 * reach, (3, 2))
        fork = stem[2] + 0.4 * reach * (toward - np.sign(bend) * 0.9 * across)
        branches += [stem, np.stack([stem[2], fork])]
    bronchi = scene.strokes(branches, [8.0, 6.0] * 3, [0.8] * 6)[here]
    ragged = 1.0 + 0.08 * scene.texture(rng, 60)[here]
    scene.fill(np.minimum((0.5 + 0.38 * severity) * mask * ragged, 0.95) * (1.0 - 0.5 * bronchi), here)
    return [scene.box(x - reach, y - reach, x + reach, y + reach)]


def draw_edema(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A butterfly of haze around both hila, short septal lines at the bases; diffuse, so no box."""
    a = scene.anatomy
    root_y = a.apex + 300.0
    wings = np.exp(
        -(((scene.distance - 110.0) / (80.0 + 45.0 * severity)) ** 2)
        - ((scene.y - root_y - 30.0) / (120.0 + 60.0 * severity)) ** 2
    )
    haze = 0.05 + 0.2 * severity
    grain = np.clip(1.0 + 0.2 * scene.texture(rng, 40), 0.4, 1.6)
    scene.fill(np.minimum((0.11 + 0.37 * severity) * wings * grain + 0.35 * haze, 0.85))
    lines = []
    for side in (-1, 1):
        for y in a.base(side) - 60.0 - np.arange(7) * 15.0 - rng.uniform(0, 8, 7):
            wall = float(a.wall(y, side))
            lines.append(np.array([[side * (wall - 4.0), y], [side * (wall - 40.0), y + rng.uniform(-4, 4)]]))
    scene.solid += 0.12 * severity * scene.strokes(lines, [4.0] * len(lines), [1.0] * len(lines))
    return []


def draw_emphysema(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """Few vessels in dark lungs, bullae with hair-thin walls in the upper zones; diffuse, so no box."""
    a = scene.anatomy
    scene.markings *= 0.85 - 0.4 * severity
    for _ in range(int(rng.integers(1, 4))):
        side, radius = _side(rng), rng.uniform(25.0, 40.0) + 30.0 * severity
        y = a.apex + rng.uniform(70.0, 230.0)
        x = side * rng.uniform(0.6, 0.85) * float(a.wall(y, side))
        here = scene.window(x, y, radius + 8.0)
        away = np.hypot(scene.x[here] - x, scene.y[here] - y) - radius
        bulla = _soft(-away, 8.0)
        scene.markings[here] *= 1.0 - bulla
        scene.air[here] *= 1.0 + 0.12 * severity * bulla
        scene.solid[here] += 0.05 * severity * np.exp(-((away / 5.0) ** 2))
    return []


def draw_fibrosis(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A net of fine lines at the bases and the edges of both lungs; diffuse, so no box."""
    a = scene.anatomy
    count = int(200 + 220 * severity)
    side = np.where(rng.random(count) < 0.5, -1, 1)
    from_base = rng.exponential(75.0 + 60.0 * severity, count)
    from_wall = rng.exponential(60.0 + 40.0 * severity, count)
    angle, half = rng.uniform(0, np.pi, count), rng.uniform(14.0, 26.0, count)
    bend = rng.normal(0, 7.0, count)
    paths = []
    for k in range(count):
        y = a.base(int(side[k])) - 25.0 - from_base[k]
        x = side[k] * (float(a.half_width) * 0.96 - from_wall[k])
        along = np.array([np.cos(angle[k]), np.sin(angle[k])]) * half[k]
        off = np.array([-along[1], along[0]]) / half[k] * bend[k]
        paths.append(np.array([x, y]) + np.stack([-along, off, along]))
    net = scene.strokes(paths, [4.0] * count, [1.0] * count)
    scene.markings += (0.12 + 0.14 * severity) * net
    low = np.clip(1.0 - scene.above_diaphragm / 260.0, 0.0, 1.0) * np.exp(-np.maximum(scene.inside, 0) / 120.0)
    scene.fill((0.1 + 0.2 * severity) * low)
    return []


def draw_pleural_thickening(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A dense, uneven rim along the chest wall, or a cap over the apex."""
    a, side = scene.anatomy, _side(rng)
    apical = rng.random() < 0.4
    width = 14.0 + 30.0 * severity
    phase = rng.uniform(0, 6.0, 2)
    uneven = width * (1.0 + 0.2 * np.sin(scene.y / 29.0 + phase[0]) + 0.18 * np.sin(scene.y / 53.0 + phase[1]))
    if apical:
        depth = 28.0 + 54.0 * severity
        cap = a.wall(np.arange(-512, 1536, dtype=np.float32), side, 0.5 * width, depth)
        rim = _soft(scene.distance - scene.over_y(cap), 9.0) * _soft(a.apex + 130.0 - scene.y, 60.0)
        far = float(a.wall(a.apex + 130.0, side))
        box = scene.box(side * 45.0, a.apex, side * far, a.apex + 120.0)
    else:
        middle = rng.uniform(a.apex + 250.0, a.dome[side] - 60.0)
        length = rng.uniform(100.0, 150.0) + 90.0 * severity
        rim = _soft(uneven - scene.inside, 7.0) * _soft(length - np.abs(scene.y - middle), 60.0)
        top, bottom = max(middle - length, a.apex), min(middle + length, a.base(side))
        wall = float(np.max(a.wall(np.array([top, bottom]), side)))
        inner = float(np.min(a.wall(np.array([top, bottom]), side))) - width
        box = scene.box(side * inner, top, side * wall, bottom)
    scene.fill((0.55 + 0.4 * severity) * rim * scene.side(side))
    return [box]


def draw_hernia(scene: Scene, severity: float, rng: np.random.Generator) -> list[Box]:
    """A hiatal hernia: stomach in the chest, a rounded shape behind the heart with gas above a level of fluid."""
    a = scene.anatomy
    radius = 52.0 + 56.0 * severity
    x = a.shift + rng.uniform(-5.0, 45.0)
    y = min(a.dome[-1], a.dome[1]) - 0.45 * radius + rng.uniform(-5.0, 25.0)
    here = scene.window(x, y, 1.15 * radius + 8.0, radius + 8.0)
    dx, dy = scene.x[here] - x, scene.y[here] - y
    away = np.hypot(dx / 1.12, dy) / radius
    pouch = np.clip((1.0 - away) * radius / 8.0 + 0.5, 0.0, 1.0)
    wall = np.exp(-(((1.0 - away) * radius / 6.0) ** 2)) * (away < 1.15)
    level = rng.uniform(-0.25, 0.3) * radius
    gas = np.sqrt(np.clip(0.88 - away**2, 0.0, 1.0)) * _soft(level - dy, 6.0)
    scene.fill(0.85 * pouch, here)
    amount = rng.uniform(0.05, 0.25) + 0.2 * severity  # some hold little gas
    scene.solid[here] += 0.1 * pouch + 0.03 * wall - amount * gas
    return [scene.box(x - 1.12 * radius, y - radius, x + 1.12 * radius, y + radius)]


SHAPES: Final[dict[str, Shaper]] = {
    "Atelectasis": shrink_lung,
    "Cardiomegaly": enlarge_heart,
    "Pneumothorax": push_mediastinum,
    "Edema": overload_heart,
    "Emphysema": overinflate,
    "Fibrosis": shrink_bases,
}

# In the order of drawing: what changes the lung itself first, what lies in front of it or in its place last.
DRAWERS: Final[dict[str, Drawer]] = {
    "Emphysema": draw_emphysema,
    "Fibrosis": draw_fibrosis,
    "Edema": draw_edema,
    "Infiltration": draw_infiltration,
    "Pneumonia": draw_pneumonia,
    "Consolidation": draw_consolidation,
    "Atelectasis": draw_atelectasis,
    "Nodule": draw_nodule,
    "Mass": draw_mass,
    "Cardiomegaly": draw_cardiomegaly,
    "Hernia": draw_hernia,
    "Pneumothorax": draw_pneumothorax,
    "Pleural_Thickening": draw_pleural_thickening,
    "Effusion": draw_effusion,
}

# These stay where they are from film to film of a patient; the others come and go.
CHRONIC: Final = frozenset({"Mass", "Nodule", "Cardiomegaly", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"})


# Bright artefacts: each returns an opacity (H, W) in 0..1


def draw_pacemaker(scene: Scene, rng: np.random.Generator) -> Array:
    """A can below a clavicle, most often the left, and a lead down to the right ventricle."""
    a = scene.anatomy
    side = -1 if rng.random() < 0.15 else 1
    x, y = side * rng.uniform(190.0, 230.0), a.apex + rng.uniform(120.0, 190.0)
    width, height = rng.uniform(40.0, 52.0), rng.uniform(34.0, 46.0)
    away = np.abs((scene.x - x) / width) ** 3 + np.abs((scene.y - y) / height) ** 3
    can = 0.92 * np.clip((1.0 - away) * 9.0, 0.0, 1.0)
    low = a.heart_y() + 60.0
    vein = [[20.0, a.apex + 95], [-42.0, a.apex + 210], [-40.0, low - 90], [45.0, low]]
    lead = np.array([[x, y - height], [x - side * 50, y - 75], *vein])
    return np.maximum(can, scene.strokes([_curve(lead)], [7.0], [0.9]))


def draw_wires(scene: Scene, rng: np.random.Generator) -> Array:
    """Three to five electrodes with their wires."""
    paths: list[Array] = []
    widths: list[float] = []
    values: list[float] = []
    angle = np.linspace(0, 2 * np.pi, 12)
    for _ in range(int(rng.integers(3, 6))):
        x, y = _side(rng) * rng.uniform(110.0, 300.0), rng.uniform(200.0, 740.0)
        out = np.array([rng.uniform(-560, 560), rng.choice([-40.0, 1080.0])])
        between = 0.5 * (np.array([x, y]) + out) + rng.normal(0, 110.0, 2)
        paths += [np.stack([x + 11 * np.cos(angle), y + 11 * np.sin(angle)], axis=-1)]
        paths += [_curve(np.array([[x, y], between, out]))]
        widths += [11.0, 5.5]
        values += [0.95, 0.8]
    return scene.strokes(paths, widths, values)


def draw_tube(scene: Scene, rng: np.random.Generator) -> Array:
    """A tube in the trachea, one to the stomach, a central line, or a drain: an opaque stripe in a faint tube."""
    a = scene.anatomy
    kind, side, wobble = rng.random(), _side(rng), rng.normal(0, 6.0, 2)
    if kind < 0.3:
        way, wide = [[4.0, -40.0], [wobble[0], 60.0], [wobble[1] + a.shift, a.apex + 180.0]], 20.0
    elif kind < 0.55:
        way = [[8, -40], [10 + wobble[0], 200], [12 + wobble[1], 500], [20, a.dome[1]], [130, a.dome[1] + 110]]
        wide = 13.0
    elif kind < 0.8:
        vein = [[side * 60, 235], [-40, 300], [-46 + wobble[1], a.apex + 270]]
        way, wide = [[side * 330, 120], [side * 210, 205 + wobble[0]], *vein], 8.0
    else:
        base = a.dome[side]
        way = [[side * 560, base - 20], [side * (a.half_width - 20), base - 90], [side * 200, 330], [side * 150, 230]]
        wide = 18.0
    line = _curve(np.array(way, dtype=float))
    return np.maximum(scene.strokes([line], [wide], [0.22]), scene.strokes([line], [6.0], [0.85]))


def draw_marker(scene: Scene, rng: np.random.Generator) -> Array:
    """A lead letter in an upper corner, L at the image's right or R at its left; it lies on the film."""
    letter = "L" if rng.random() < 0.6 else "R"
    x = 930.0 if letter == "L" else 90.0
    origin = np.array([x + rng.normal(0, 14.0), rng.uniform(70.0, 150.0)])
    angle = np.radians(rng.normal(0, 9.0))
    spin = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    height = rng.uniform(38.0, 56.0)
    lines = [origin + (np.array(stroke) - 0.5) * [0.62 * height, height] @ spin for stroke in _LETTERS[letter]]
    return draw_strokes(scene.size, lines, [9.0] * len(lines), [1.0] * len(lines))


def _curve(points: Array) -> Array:
    """A smooth curve through points (n, 2): Catmull-Rom, eight steps between neighbours."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0.0, 1.0, 9)[:-1, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False)
    ]
    return np.concatenate([*pieces, points[-1:]])


# In a unit square; drawn as strokes, so that no font is needed.
_LETTERS: Final[dict[str, list[list[list[float]]]]] = {
    "L": [[[0, 0], [0, 1], [1, 1]]],
    "R": [[[0, 1], [0, 0], [0.8, 0], [1, 0.14], [1, 0.38], [0.8, 0.5], [0, 0.5]], [[0.5, 0.5], [1, 1]]],
}

ARTIFACT_DRAWERS: Final[dict[str, ArtifactDrawer]] = {
    "pacemaker": draw_pacemaker,
    "wires": draw_wires,
    "tube": draw_tube,
    "marker": draw_marker,
}
