"""Film files as grey levels: what is opened, how large it may be, and what becomes of other pixels than 8-bit grey.

| in the file | becomes |
|---|---|
| 1, 2, 4 or 8 bits of grey | 0 for black, 255 for white |
| 16 bits of grey | the nearest of 256 levels, `round(value / 257)`; refused where no value has the highest bit |
| colour, palette | Pillow's grey of the colours, ITU-R 601-2: `(19595 R + 38470 G + 7471 B + 2**15) >> 16` |
| CMYK (JPEG) | the same, of `R = (255 - C)(255 - K) / 255` and so on |
| transparency | is left out: the levels are those of the colours below it |
| more than 8 bits of colour, several frames | refused |

A camera's note on which way up a JPEG is (EXIF's orientation) is followed.

A 16-bit file without a value above 32767 holds levels of 12 or so bits; scaled by 257 it would be a black film, scaled
by its own range a guess. Films of 12 bits come as DICOM, which says how they are meant.
"""

import io
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from chexjax.data.verdict import Verdict
from chexjax.errors import ConfigError, DataError, printable

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
FORMATS: Final = ("PNG", "JPEG")  # Pillow knows forty more, some of which start other programs
MAX_PIXELS: Final = 2**25  # twice the largest detectors in use; a kilobyte of file can claim a hundred times that
LIMIT: Final = "CHEXJAX_MAX_PIXELS"  # the environment's word on it
MAX_SIDE: Final = 2**16 - 1
_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BYTES_A_PIXEL: Final = 8  # four channels of 16 bits: no honest file of so few pixels is larger
_TOO_SMALL: Final = 32  # pixels a side: less is an icon
_SMALL: Final = 64
_COLOURED: Final = 32  # levels between a pixel's channels; a JPEG's noise stays below
_MARKS: Final = 0.001  # of the pixels: a letter in colour
_PICTURE: Final = 0.2

# A camera's broken notes change no pixel; Pillow's word on them names neither the film nor a way out.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin$")


@dataclass(frozen=True)
class Placement:
    """How a film lies to its file, whose pixels were made square by `down` and `across`, and then set upright.

    Attributes:
      down, across: how many pixels one of the file's became.
      transposed, upside_down, mirrored: what was then done, in this order.
    """

    down: float = 1.0
    across: float = 1.0
    transposed: bool = False
    upside_down: bool = False
    mirrored: bool = False

    def file_size(self, height: int, width: int) -> tuple[int, int]:
        """(width, height) of the file whose film has that height and width."""
        if self.transposed:
            height, width = width, height
        return round(width / self.across), round(height / self.down)

    def move(self, left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        """A box in shares of the file, left, top, width, height, as it lies in the film."""
        if self.transposed:
            left, top, width, height = top, left, height, width
        if self.upside_down:
            top = 1.0 - top - height
        if self.mirrored:
            left = 1.0 - left - width
        return left, top, width, height


@dataclass(frozen=True)
class JudgedFilm:
    """A film, and what its reader says of it.

    Attributes:
      pixels: uint8 (height, width).
      verdict: its status and the reasons, phrases of ours that quote nothing of the file.
      placement: how it lies to its file.
    """

    pixels: np.ndarray
    verdict: Verdict
    placement: Placement = Placement()


def max_pixels() -> int:
    """The most pixels a film may have: CHEXJAX_MAX_PIXELS, or 33.5 million.

    Raises:
      ConfigError: CHEXJAX_MAX_PIXELS is no positive number.
    """
    text = os.environ.get(LIMIT) or str(MAX_PIXELS)
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text)):
        raise ConfigError(f"{LIMIT} is {text[:40]!r}; it takes a number of pixels, as {MAX_PIXELS}")
    return int(text)


def check_size(where: object, width: int, height: int) -> None:
    """Refuses films that are too large to hold, before they are decoded.

    Raises:
      DataError: more than `max_pixels`, or a side above 65535.
    """
    if width * height > max_pixels() or max(width, height) > MAX_SIDE:
        raise DataError(
            f"{printable(where)}: {width} x {height} pixels; a film has at most {max_pixels()}, {MAX_SIDE} a side\n"
            f"set {LIMIT} in the environment to read larger ones"
        )


def read_file(path: Path) -> bytes:
    """The bytes of a film's file.

    Raises:
      DataError: it is absent, a folder or a device, cannot be opened, or is larger than any film.
    """
    where = printable(path)
    try:
        about = path.stat()  # a named pipe would not even open
        if not stat.S_ISREG(about.st_mode):
            raise DataError(f"{where}: a {'folder' if stat.S_ISDIR(about.st_mode) else 'device'}, not a film")
        if about.st_size > BYTES_A_PIXEL * max_pixels():
            raise DataError(f"{where}: {about.st_size} bytes; no film of {max_pixels()} pixels has so many ({LIMIT})")
        with path.open("rb") as file:
            return file.read(BYTES_A_PIXEL * max_pixels())  # it may have grown meanwhile
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or type(error).__name__})") from None
    except ValueError:  # a NUL in the name
        raise DataError(f"{where}: no such file") from None


def judge_size(height: int, width: int) -> Verdict:
    """Whether a film has enough pixels to be judged: refused below 32 a side, doubtful below 64."""
    side = min(height, width)
    if side >= _SMALL:
        return Verdict()
    return Verdict("refused" if side < _TOO_SMALL else "doubtful", (f"only {width} x {height} pixels",))


def judge_colour(pixels: np.ndarray) -> Verdict:
    """Whether uint8 (height, width, 3) is grey: a picture in colour is refused, marks in colour are doubtful."""
    coloured = float((np.ptp(pixels, axis=-1) > _COLOURED).mean())
    if coloured > _PICTURE:
        return Verdict("refused", ("a picture in colour",))
    return Verdict("doubtful", ("marks in colour",)) if coloured > _MARKS else Verdict()


def read_grey(path: Path) -> np.ndarray:
    """A PNG or JPEG film as uint8 (height, width); see the module for what other pixels than 8-bit grey ones become.

    Raises:
      DataError: see `read_judged_picture`.
    """
    return read_judged_picture(path).pixels


def read_judged_picture(path: Path) -> JudgedFilm:
    """The same with a verdict on its size and colours.

    Raises:
      DataError: not such an image, broken, cut off, too large, of several frames, or of levels that cannot be placed.
    """
    return judge_picture(read_file(path), printable(path))


def judge_picture(data: bytes, where: str) -> JudgedFilm:
    """The same of a file's content; `where` names it in messages.

    Raises:
      DataError: see `read_judged_picture`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(where, *image.size)
            image.verify()  # a PNG's checksums, which decoding passes over
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise DataError(f"{where}: {frames} frames; a film is one picture")
            verdict = judge_size(image.height, image.width)
            if _is_deep(image, data):
                return JudgedFilm(_levels_of_16_bits(where, upright(image)), verdict)
            image.info.pop("transparency", None)  # else Pillow warns that a palette's would be better kept
            shown = upright(image)
            if shown.mode not in ("1", "L", "LA"):
                verdict += judge_colour(np.asarray(shown.convert("RGB")))
            return JudgedFilm(np.asarray(shown.convert("L")), verdict)
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        raise DataError(f"{where}: not an image, or of an unknown kind (known are {', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:  # Pillow's own limit, which lies above ours
        message = f"{where}: more pixels than Pillow opens; a film has at most {max_pixels()} ({LIMIT})"
        raise DataError(message) from None
    except Exception as error:  # OSError, SyntaxError, struct.error, ...: Pillow has no family
        raise DataError(f"{where}: cannot be read ({printable(error) or type(error).__name__})") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture as viewers show it: turned and mirrored as its EXIF orientation says; as it is where that is broken.

    Source: CIPA DC-008 (EXIF 2.32), tag 0x0112.
    """
    try:
        transposition = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # SyntaxError, struct.error, ...: a film is not refused for what a camera wrote beside it
        return image
    return image if transposition is None else image.transpose(transposition)


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Pillow silently halves 16-bit colour to 8 bits; a PNG's bit depth stands at byte 24."""
    return (image.format == "PNG" and data[24] > 8) or image.mode in ("F", "I") or image.mode.startswith("I;")


def _levels_of_16_bits(where: str, image: Image.Image) -> np.ndarray:
    message = f"{where}: more than 8 bits a pixel"
    if not image.mode.startswith("I"):
        raise DataError(f"{message}, in colour; convert it to 8-bit grey first")
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if not 2**15 <= high < 2**16:
        raise DataError(
            f"{message}, but levels from {low} to {high}, where white is 65535; convert it to 8-bit grey first, by the "
            "window it is meant to be seen with"
        )
    return ((values + 128) // 257).astype(np.uint8)
