"""A map drawn over its film: grey levels, colours, boxes, a colour bar. Pure functions of arrays and pictures.

Processes that only draw import this module: nothing here may need JAX.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from chexjax.explain.maps import MapBox, Region, heat
from chexjax.explain.palette import PALETTE

OPACITY: Final = 0.5
SIDE: Final = 640  # pixels of a picture
BOX_COLOUR: Final = (255, 255, 255)
TRUE_COLOUR: Final = (80, 230, 110)
SHADOW: Final = (0, 0, 0)
QUALITY: Final = 87  # of a JPEG


def window(film: np.ndarray, center: float = 127.5, width: float = 255.0) -> np.ndarray:
    """uint8 grey levels, `width` of them around `center` stretched from black to white; the default changes none."""
    levels = (np.arange(256) - center) / max(width, 1.0) + 0.5
    return np.rint(np.clip(levels, 0.0, 1.0) * 255).astype(np.uint8)[film]


def blend(grey: np.ndarray, heat: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """uint8 grey levels (h, w) under a map in 0..1 of the same shape: uint8 (h, w, 3).

    The colour covers by `opacity` times the map, so that a film stays a film where its map is low. The map is rounded
    to 256 levels.
    """
    index = np.rint(heat * 255).astype(np.uint16)
    index <<= 8
    index |= grey
    return np.take(_mixtures(opacity), index).view(np.uint8).reshape(*grey.shape, 4)[..., :3]


@lru_cache(maxsize=4)
def _mixtures(opacity: float) -> np.ndarray:
    """The colours of every level of a map on every grey level, four bytes in one: uint32 (256 * 256,)."""
    heat, grey = np.arange(256, dtype=np.float32)[:, None, None] / 255, np.arange(256, dtype=np.float32)[:, None]
    mixed = np.zeros((256, 256, 4), np.uint8)
    mixed[..., :3] = np.rint(grey + np.float32(opacity) * heat * (PALETTE[:, None] - grey))
    return mixed.view(np.uint32).ravel()


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Region], colour: tuple[int, int, int] = BOX_COLOUR, line: int = 1
) -> None:
    """Outlines with a black shadow, seen on dark and on bright ground; (left, top, right, bottom) in pixels.

    `line` is their width. An edge on the picture's border is drawn inside it.
    """
    draw = ImageDraw.Draw(picture)
    for left, top, right, bottom in boxes:
        right, bottom = max(right, left + 2), max(bottom, top + 2)
        right = picture.width - 1 if right == picture.width else right
        bottom = picture.height - 1 if bottom == picture.height else bottom
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=SHADOW, width=line + 2)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)


def size_of_picture(columns: int, rows: int, side: int = SIDE) -> tuple[int, int]:
    """(width, height) of a film's picture, whose longer side has `side` pixels."""
    scale = side / max(rows, columns)
    return max(round(columns * scale), 1), max(round(rows * scale), 1)


def reduced(film: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A film as large as its picture, so that no larger one need be kept; one that is smaller stays as it is."""
    rows, columns = film.shape
    if max(rows, columns) <= side:
        return film
    return np.asarray(Image.fromarray(film).resize(size_of_picture(columns, rows, side), Image.Resampling.LANCZOS))


def compose(
    film: np.ndarray,
    map2d: np.ndarray,
    boxes: Sequence[MapBox],
    true_boxes: Sequence[Region] = (),
    opacity: float = OPACITY,
    side: int = SIDE,
    line: int = 1,
    extent: tuple[int, int] | None = None,
) -> Image.Image:
    """The film under its map and boxes; the longer side of the picture has `side` pixels, outlines are `line` wide.

    Args:
      film: uint8 (height, width), of any size.
      map2d: float (h, w) of any size.
      boxes: of the map, in pixels of the film; drawn white.
      true_boxes: in pixels of the film; drawn green.
      extent: (rows, columns) of the film in whose pixels the boxes are; None: of `film`.
    """
    rows, columns = extent or film.shape
    width, height = size_of_picture(columns, rows, side)
    grey = np.asarray(Image.fromarray(film).resize((width, height), Image.Resampling.LANCZOS))
    picture = Image.fromarray(blend(grey, heat(map2d, width, height), opacity))
    own = [corners(box) for box in boxes]
    stretch = (width / columns, height / rows) * 2
    for outlined, colour in ((true_boxes, TRUE_COLOUR), (own, BOX_COLOUR)):
        placed = [tuple(a * edge for a, edge in zip(stretch, box, strict=True)) for box in outlined]
        draw_boxes(picture, placed, colour, line)
    return picture


def colour_bar(width: int, height: int, low: str, high: str) -> Image.Image:
    """A bar from the lowest colour below to the highest above, with its two ends named."""
    font = _font(13)
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
    side: int = SIDE,
    extent: tuple[int, int] | None = None,
) -> Image.Image:
    """`compose`, with a title above and a colour bar beside, whose ends are the map's lowest and highest value.

    Args:
      title: one line; what does not fit is cut off.
    """
    picture = compose(film, map2d, boxes, opacity=opacity, side=side, extent=extent)
    bar, head = 64, 24
    sheet = Image.new("RGB", (max(picture.width, 160) + bar, max(picture.height, 120) + head), SHADOW)
    sheet.paste(picture, (0, head))
    ends = [f"{value:.3g}" for value in (float(map2d.min()), float(map2d.max()))]
    sheet.paste(colour_bar(bar, sheet.height - head, *ends), (sheet.width - bar, head))
    font = _font(14)
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), fit_text(title, sheet.width - 12, font), fill="white", font=font)
    return sheet


def write(
    path: Path,
    film: np.ndarray,
    map2d: np.ndarray,
    boxes: Sequence[MapBox],
    title: str,
    extent: tuple[int, int] | None = None,
) -> None:
    """Writes what `annotate` draws, as JPEG or PNG by the suffix. JPEG takes a fifth of the time, and less room.

    Raises:
      OSError: the disk does not take it.
    """
    picture = annotate(film, map2d, boxes, title, extent=extent)
    picture.save(path, quality=QUALITY)  # which PNG does without


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


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
