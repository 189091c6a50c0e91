"""Maps enlarged, and boxes taken from them: one form for the report, prediction, the window and localisation figures.

A map is enlarged bilinearly: the centres of its cells stay where they are, and border cells reach to the border. So
nothing is drawn above the highest or below the lowest cell, and the map's peak is the centre of its highest cell.
(Bicubic pictures are a little smoother, but overshoot: a box could hold a peak that no cell has.)

A box bounds a region in which the map is in the upper half of its range. It is found on a grid of at least 256 cells
a side, and reported in pixels of the film. The first box holds the map's peak; that is the box, and the peak is the
point, by which localisation is judged. A flat map has neither.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import scipy
from PIL import Image

if TYPE_CHECKING:  # processes that draw use the rest of this module, and are spared the second that JAX takes to load
    import jax

GRID: Final = 256  # cells a side, at least, on which boxes are found
SHARE: Final = 0.5  # of a map's range: from here on a cell belongs to a box
_ROUNDING: Final = 1e-6  # a range of at most this share of the values is float32's rounding
_STD: Final = 0.25  # of the centre prior, a normal distribution, in shares of the film

Region = tuple[float, float, float, float]  # left, top, right, bottom


class MapBox(NamedTuple):
    """The bounding box of a region, in pixels; `peak` is the highest value inside."""

    left: int
    top: int
    width: int
    height: int
    peak: float


# On the host: one map


def enlarge(map2d: np.ndarray, width: int, height: int, region: Region | None = None) -> np.ndarray:
    """A map at another size, bilinear: float (h, w) -> float32 (height, width). A smaller one averages areas.

    `region` is the part to draw, in shares of the map's width and height; None: all.
    """
    rows, columns = np.shape(map2d)
    box = (
        None if region is None else tuple(share * size for share, size in zip(region, (columns, rows) * 2, strict=True))
    )
    picture = Image.fromarray(np.ascontiguousarray(map2d, np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box))


def heat(map2d: np.ndarray, width: int, height: int, region: Region | None = None) -> np.ndarray:
    """A map as it is drawn: float (h, w) -> float32 (height, width) in 0..1, zero where the map is flat.

    0 and 1 are the lowest and the highest value of the whole map, so a region keeps the colours of the whole.
    """
    return enlarge(unit_range(np.asarray(map2d)[..., None])[..., 0], width, height, region)


def is_flat(map2d: np.ndarray) -> bool:
    """Whether a map has no peak: constant but for rounding, or not a number."""
    return not unit_range(np.asarray(map2d)[..., None]).max() > 0.0


def peak_point(map2d: np.ndarray) -> tuple[float, float] | None:
    """The centre (x, y) of the highest cell, in shares of the film; None for a flat map. Of equal cells, the first."""
    if is_flat(map2d):
        return None
    rows, columns = np.shape(map2d)
    row, column = np.unravel_index(np.argmax(map2d), (rows, columns))
    return (float(column) + 0.5) / columns, (float(row) + 0.5) / rows


def is_inside(point: tuple[float, float], boxes: np.ndarray) -> bool:
    """Whether a point (x, y) lies in one of `boxes` (boxes, 4), (left, top, width, height); all in the same units."""
    left, top, width, height = boxes.T
    x, y = point
    return bool(((left <= x) & (x <= left + width) & (top <= y) & (y <= top + height)).any())


def centre_prior() -> np.ndarray:
    """A map that is highest in the middle of any film, float64 (65, 65): odd, so that one cell is the middle."""
    cells = 65
    away = ((np.arange(cells) + 0.5) / cells - 0.5) / _STD
    return np.exp(-0.5 * (away[:, None] ** 2 + away**2))


def boxes_on_film(map2d: np.ndarray, width: int, height: int, share: float = SHARE) -> list[MapBox]:
    """The boxes of a map (h, w) in pixels of a film of `width` x `height`, the one with the map's peak first.

    A box covers every pixel that its region touches, and no region is left out. `peak` is in shares of the map's range.

    Args:
      share: a region is where the map is at least this far up its range.
    """
    if is_flat(map2d):
        return []
    rows, columns = (extent * _factor(extent) for extent in np.shape(map2d))
    boxes = []
    for box in boxes_from_map(heat(map2d, columns, rows), share):
        left, right = box.left * width // columns, -(-(box.left + box.width) * width // columns)
        top, bottom = box.top * height // rows, -(-(box.top + box.height) * height // rows)
        boxes.append(MapBox(left, top, right - left, bottom - top, box.peak))
    return boxes


def boxes_from_map(map2d: Any, threshold: float) -> list[MapBox]:
    """The bounding boxes of the regions where a map is at or above `threshold`, the one with the highest peak first.

    Pixels that touch at an edge or a corner belong together. Source: Wang et al., "ChestX-ray8", CVPR 2017, on the
    generation of bounding boxes.

    Args:
      map2d: float (height, width); boxes are in its pixels.
      threshold: in the map's own units.
    """
    values = np.asarray(map2d)
    regions, _ = scipy.ndimage.label(values >= threshold, structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(scipy.ndimage.find_objects(regions), start=1):
        inside = np.where(regions[rows, columns] == number, values[rows, columns], -np.inf)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        cell = (rows.start + int(row), columns.start + int(column))
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        found.append((cell, MapBox(*box, float(inside[row, column]))))
    return [box for _, box in sorted(found, key=lambda item: (-item[1].peak, item[0]))]


def _factor(extent: int) -> int:
    """The least odd factor that makes a grid of `extent` cells: odd, so that the centre of each cell is on the grid."""
    return -(-GRID // extent) | 1 if extent < GRID else 1


# Of a batch: maps (batch, h, w, findings)


def unit_range(maps: Any) -> np.ndarray:
    """Each map (h, w) of (..., h, w, findings) stretched to 0..1 by its own extremes.

    A flat map becomes 0, and so does one with values that are no numbers.
    """
    maps = np.asarray(maps, np.float32)
    maps = np.where(np.isfinite(maps).all((-3, -2), keepdims=True), maps, np.float32(0))
    low, high = maps.min((-3, -2), keepdims=True), maps.max((-3, -2), keepdims=True)
    flat = high - low <= _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    return np.where(flat, 0.0, (maps - low) / np.where(flat, 1.0, high - low)).astype(np.float32)


def enlarge_all(maps: "jax.Array", height: int, width: int) -> "jax.Array":
    """`enlarge` on the device: (batch, h, w, findings) -> float32 (batch, height, width, findings), not smaller."""
    import jax
    import jax.numpy as jnp

    shape = (maps.shape[0], height, width, maps.shape[-1])
    return jax.image.resize(maps.astype(jnp.float32), shape, "linear", antialias=False)


def average_maps(maps: Sequence["jax.Array"]) -> "jax.Array":
    """An ensemble's map: the mean of its networks' maps, smaller ones enlarged to the size of the largest."""
    import jax.numpy as jnp

    height, width = (max(extent) for extent in zip(*(each.shape[1:3] for each in maps), strict=True))
    fitting = [each if each.shape[1:3] == (height, width) else enlarge_all(each, height, width) for each in maps]
    return jnp.stack(fitting).mean(0)
