"""A map drawn over its film: grey levels, colours, boxes, a colour bar. Pure functions of arrays and pictures."""

from collections.abc import Sequence
from typing import Final

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chexjax.explain.cam import MapBox, boxes_from_map, unit_range

# Blue to red by way of green, without jet's false edges (Mikhailov, "Turbo", 2019); uint8 (256, 3).
PALETTE: Final = (matplotlib.colormaps["turbo"](np.linspace(0.05, 0.93, 256))[:, :3] * 255).round().astype(np.uint8)
OPACITY: Final = 0.5
BOX_SHARE: Final = 0.5  # of a map's range: from here on a place belongs to a box
BOX_GRID: Final = 256  # boxes are found on a grid of this side, many times finer than any map
BOX_COLOUR: Final = (255, 255, 255)
SHADOW: Final = (0, 0, 0)

Region = tuple[float, float, float, float]  # left, top, right, bottom


def heat(map2d: np.ndarray, width: int, height: int, region: Region | None = None) -> np.ndarray:
    """A map drawn smoothly at another size: float32 (h, w) -> (height, width) in 0..1.

    0 and 1 are the lowest and the highest value of the map itself, so that a region of it keeps the colours of the
    whole. `region` is the part to draw, in shares of the map's width and height; None: all.
    """
    rows, columns = map2d.shape
    box = (
        None if region is None else tuple(share * size for share, size in zip(region, (columns, rows) * 2, strict=True))
    )
    flat = np.asarray(unit_range(np.asarray(map2d)[..., None])[..., 0])
    drawn = Image.fromarray(flat).resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.clip(np.asarray(drawn), 0.0, 1.0)


def boxes_on_film(map2d: np.ndarray, width: int, height: int, share: float = BOX_SHARE) -> list[MapBox]:
    """The regions of a map at or above `share` of its range, in pixels of a film of `width` x `height`.

    A box covers every pixel that its region touches; `peak` is in shares of the map's range. A flat map has none.
    """
    if not np.ptp(map2d):
        return []
    found = boxes_from_map(heat(map2d, BOX_GRID, BOX_GRID), share)
    boxes = []
    for box in found:
        left, right = box.left * width // BOX_GRID, -(-(box.left + box.width) * width // BOX_GRID)
        top, bottom = box.top * height // BOX_GRID, -(-(box.top + box.height) * height // BOX_GRID)
        boxes.append(MapBox(left, top, right - left, bottom - top, box.peak))
    return boxes


def window(film: np.ndarray, center: float = 127.5, width: float = 255.0) -> np.ndarray:
    """uint8 grey levels, `width` of them around `center` stretched from black to white; the default changes none."""
    levels = (np.arange(256) - center) / max(width, 1.0) + 0.5
    return np.rint(np.clip(levels, 0.0, 1.0) * 255).astype(np.uint8)[film]


def blend(grey: np.ndarray, heat: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """uint8 grey levels (h, w) under a map in 0..1 of the same shape: uint8 (h, w, 3).

    The colour covers by `opacity` times the map, so that a film stays a film where its map is low.
    """
    cover = (opacity * heat)[..., None]
    colour = PALETTE[np.rint(heat * 255).astype(np.uint8)]
    return np.rint(grey[..., None] * (1.0 - cover) + colour * cover).astype(np.uint8)


def draw_boxes(picture: Image.Image, boxes: Sequence[Region]) -> None:
    """White outlines with a black shadow, seen on dark and on bright ground; (left, top, right, bottom) in pixels."""
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in boxes:
        right, bottom = max(right, left + 2), max(bottom, top + 2)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=SHADOW)
        draw.rectangle((left, top, right, bottom), outline=BOX_COLOUR)


def colour_bar(width: int, height: int, low: str, high: str) -> Image.Image:
    """A bar from the lowest colour below to the highest above, with its two ends named."""
    font = ImageFont.load_default(13)
    picture = Image.new("RGB", (width, height), SHADOW)
    draw = ImageDraw.Draw(picture)
    ramp = PALETTE[np.linspace(255, 0, height - 36).round().astype(int)]
    picture.paste(Image.fromarray(np.repeat(ramp[:, None], 16, axis=1)), (8, 18))
    draw.text((4, 1), high, fill="white", font=font)
    draw.text((4, height - 17), low, fill="white", font=font)
    return picture


def annotate(
    film: np.ndarray,
    map2d: np.ndarray,
    boxes: Sequence[MapBox],
    title: str,
    opacity: float = OPACITY,
    side: int = 640,
) -> Image.Image:
    """The film with its map, its boxes, a title above and a colour bar beside; the longer side has `side` pixels.

    Args:
      film: uint8 (height, width).
      map2d: float (h, w) of any size; the bar's ends are its lowest and highest value.
      boxes: in pixels of the film.
      title: one line; what does not fit is cut off.
    """
    rows, columns = film.shape
    scale = side / max(rows, columns)
    width, height = max(round(columns * scale), 1), max(round(rows * scale), 1)
    grey = np.asarray(Image.fromarray(film).resize((width, height), Image.Resampling.LANCZOS))
    picture = Image.fromarray(blend(grey, heat(map2d, width, height), opacity))
    draw_boxes(picture, [tuple(scale * edge for edge in corners(box)) for box in boxes])
    bar, head = 64, 24
    sheet = Image.new("RGB", (max(width, 160) + bar, max(height, 120) + head), SHADOW)
    sheet.paste(picture, (0, head))
    ends = [f"{value:.3g}" for value in (float(map2d.min()), float(map2d.max()))]
    sheet.paste(colour_bar(bar, sheet.height - head, *ends), (sheet.width - bar, head))
    font = ImageFont.load_default(14)
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), fit_text(title, sheet.width - 12, font), fill="white", font=font)
    return sheet


def corners(box: MapBox) -> Region:
    """(left, top, right, bottom) of a box."""
    return box.left, box.top, box.left + box.width, box.top + box.height


def fit_text(text: str, width: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """The text, cut off with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
