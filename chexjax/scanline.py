"""Scan-line removal of bright foreign objects (pacemakers, wires, tubes, markers): the report's chapter 6, DESIGN.md.

The rule, along each row, on the ORIGINAL grey levels x:

- pixel i is an up-edge where `x[i] - x[i-1] >= threshold`, pixel j a down-edge where `x[j-1] - x[j] >= threshold`;
- from left to right: take an up-edge i and the first down-edge j after it. Where `j - i <= max_width`, pixels i ... j-1
  become `(x[i-1] + x[j]) // 2` and the scan goes on after j; elsewhere it goes on at i + 1.

`remove_artifacts_reference` is that text as a loop. `remove_artifacts` gives the same bits without walking along
the row. Three remarks make that possible:

1. An up-edge always pairs with the NEXT down-edge, so no pair contains a down-edge: the down-edges cut a row into
   stretches that know nothing of each other.
2. In a stretch, the first up-edge within `max_width` of the stretch's end makes the pair, and ends the stretch.
   So a pixel is replaced exactly where the last event at or before it is such an up-edge, not a down-edge.
3. Pixel j of a pair is never replaced. Replaced pixels thus come in runs with an untouched pixel at both ends, and
   these two are just the two that the mean is made of: the nearest untouched pixel to the left, and to the right.

All three ask for the nearest pixel of a kind. Two exact forms answer that:

- `_clean_octets` (CPU): one BIT a pixel, eight rows to a byte, and doubling: shifts by 1, 2, 4, 8, ... reach
  2**n pixels in n steps (Hillis and Steele 1986). Only rows near a pair are touched as grey levels.
- `_clean_words` (elsewhere): 32 pixels of a row to a word; the nearest set bit is a count of leading or trailing zeros.

Command line: `python -m chexjax.scanline FILE_OR_FOLDER --out=DIR --compare`.
"""

import csv
import functools
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array, lax
from PIL import Image, ImageDraw, ImageFont

from chexjax import spreadsheet
from chexjax.commands import parse
from chexjax.errors import ConfigError, DataError, command, fail, first_ten, printable, printable_lines
from chexjax.images import SUFFIXES, read_grey
from chexjax.progress import progress_bar

THRESHOLD: Final = 50  # grey levels; the report's
MAX_WIDTH: Final = 40  # pixels; the report's, for films of 1024 x 1024
ROWS: Final = -1  # the axis that a scan along rows runs over
COLUMNS: Final = -2
WHITE: Final = 255
OCTET: Final = 8  # rows that share a byte
CHUNK: Final = 2**19  # bytes of film that the CPU form takes at once: with what it makes of them, a core's cache full
WINDOWS: Final = 16  # to a chunk: octets are filled a window at a time
WORD_LOG2: Final = 5
WORD: Final = 2**WORD_LOG2  # pixels that share a word
NOWHERE: Final = 2**30  # a column beyond any film; also the widest `max_width` that is told apart

BATCH: Final = 16  # films cleaned at once by the command line
WAITING: Final = 4 * BATCH  # films in memory, whatever their sizes


# The public functions


def remove_artifacts(
    images: Any,
    threshold: Any = THRESHOLD,
    max_width: Any = MAX_WIDTH,
    *,
    edge_span: int = 1,
    axes: Sequence[int] = (ROWS,),
    spare_wide: bool = False,
    return_mask: bool = False,
) -> Any:
    """Replaces bright, narrow objects by the mean of the darker pixels at their two ends.

    Works under jit, vmap and pmap. Equals `remove_artifacts_reference` bit for bit; the defaults are the report's rule.

    Args:
      images: uint8 (..., H, W), NumPy or JAX.
      threshold: the least jump, 1 to 255 grey levels. A Python number or a scalar array, which may be traced; a traced
        one cannot be checked, and is clipped to that range.
      max_width: the widest object, in pixels, at least 1; the same holds for it. Traced, it costs up to twice the time,
        since any width must then be provided for.
      edge_span: pixels over which a jump may ramp up or down. With more than 1, pixel i is an up-edge where
        `x[i] > x[i-1]` and `max(x[i], ..., x[i+edge_span-1]) - x[i-1] >= threshold`, a down-edge likewise towards the
        left; of neighbouring up-edges the first counts, of neighbouring down-edges the last: the ramp's two feet.
      axes: -1 scans along rows, -2 along columns; (-1, -2) does both in this order, the second on the first's result.
      spare_wide: leaves objects wider than `max_width` wholly alone: only the first up-edge after a down-edge counts.
        Without it the rule may find another up-edge inside a wide object and bite off the object's right end.
      return_mask: also returns where the result differs from `images`: bool (..., H, W).

    Returns:
      uint8 (..., H, W); with `return_mask` a pair.

    Raises:
      ValueError: another dtype than uint8, a rank below 2, a number out of range.
    """
    threshold, max_width = _checked(images, threshold, max_width, edge_span, axes)
    return _remove(
        images,
        threshold,
        max_width,
        steps=max_width.bit_length() if isinstance(max_width, int) else None,
        edge_span=int(edge_span),
        axes=tuple(axes),
        spare_wide=bool(spare_wide),
        return_mask=bool(return_mask),
    )


def remove_artifacts_reference(
    images: Any,
    threshold: int = THRESHOLD,
    max_width: int = MAX_WIDTH,
    *,
    edge_span: int = 1,
    axes: Sequence[int] = (ROWS,),
    spare_wide: bool = False,
    return_mask: bool = False,
) -> Any:
    """The rule as a plain loop over the pixels, slow and short: the oracle. Arguments, results as above; NumPy."""
    threshold, max_width = _checked(images, threshold, max_width, edge_span, axes)
    images = np.asarray(images)
    cleaned = images
    for axis in axes if images.size else ():
        lines = np.moveaxis(cleaned, axis, -1)
        rows = [
            _clean_line(row, threshold, max_width, edge_span, spare_wide)
            for row in lines.reshape(-1, lines.shape[-1]).tolist()
        ]
        cleaned = np.moveaxis(np.array(rows, np.uint8).reshape(lines.shape), -1, axis)
    return (cleaned, cleaned != images) if return_mask else cleaned


def _clean_line(x: list[int], threshold: int, max_width: int, span: int, spare_wide: bool) -> list[int]:
    """One row of Python ints, pixel by pixel."""
    width = len(x)
    up = [i > 0 and x[i] > x[i - 1] and max(x[i : i + span]) - x[i - 1] >= threshold for i in range(width)]
    down = [j > 0 and x[j - 1] > x[j] and max(x[max(j - span, 0) : j]) - x[j] >= threshold for j in range(width)]
    if span > 1:
        up = [up[i] and not up[i - 1] for i in range(width)]  # column 0 is no edge, so up[-1] below it does no harm
        down = [down[j] and not (j + 1 < width and down[j + 1]) for j in range(width)]
    cleaned = list(x)
    i = 1
    while i < width:
        if not up[i]:
            i += 1
            continue
        j = i + 1
        while j < width and not down[j]:
            j += 1
        if j == width:
            break  # no down-edge is left, for this up-edge or any later one
        if j - i <= max_width:
            cleaned[i:j] = [(x[i - 1] + x[j]) // 2] * (j - i)
        i = j + 1 if j - i <= max_width or spare_wide else i + 1
    return cleaned


def _checked(images: Any, threshold: Any, max_width: Any, edge_span: Any, axes: Sequence[int]) -> tuple[Any, Any]:
    """The two numbers as Python ints, or as they came where traced."""
    shape, dtype = np.shape(images), images.dtype if hasattr(images, "dtype") else np.asarray(images).dtype
    if dtype != np.uint8:
        hint = " (films scaled to [0, 1] are not understood: clean before scaling)" if dtype.kind == "f" else ""
        raise ValueError(f"images must be uint8 grey levels, 0 to 255; got {dtype} of shape {shape}{hint}")
    if len(shape) < 2:
        raise ValueError(f"images must have a height and a width, (..., H, W); got shape {shape}")
    if not isinstance(edge_span, (int, np.integer)) or edge_span < 1:
        raise ValueError(f"edge_span must be a whole number of pixels, at least 1; got {edge_span!r}")
    if not axes or set(axes) - {ROWS, COLUMNS} or len(set(axes)) < len(axes):
        raise ValueError(f"axes must hold -1 (along rows), -2 (along columns) or both; got {tuple(axes)}")
    threshold = _whole_number("threshold", threshold, WHITE, "grey levels, 1 to 255")
    return threshold, _whole_number("max_width", max_width, None, "pixels, at least 1")


def _whole_number(name: str, value: Any, largest: int | None, meaning: str) -> Any:
    if not isinstance(value, int) and (np.ndim(value) or not jnp.issubdtype(jnp.result_type(value), jnp.integer)):
        raise ValueError(f"{name} must be a whole number of {meaning}; got {value!r}")
    if isinstance(value, jax.core.Tracer):
        return value
    if int(value) < 1 or (largest is not None and int(value) > largest):
        raise ValueError(f"{name} must be a whole number of {meaning}; got {value!r}")
    return min(int(value), NOWHERE)


# Around the two forms


@functools.partial(jax.jit, static_argnames=("steps", "edge_span", "axes", "spare_wide", "return_mask"))
def _remove(
    images: Array,
    threshold: Array,
    max_width: Array,
    *,
    steps: int | None,
    edge_span: int,
    axes: tuple[int, ...],
    spare_wide: bool,
    return_mask: bool,
) -> Any:
    """`steps`: the number of bits of `max_width`; None where it is traced, and may be as wide as the film."""
    threshold = jnp.clip(threshold, 1, WHITE).astype(jnp.uint8)
    cleaned = images
    for axis in axes if images.size else ():
        lines = jnp.moveaxis(cleaned, axis, -1)
        length = lines.shape[-1]
        clean = _for_any_batch(
            steps=min((length - 1).bit_length(), steps or length), edge_span=edge_span, spare_wide=spare_wide
        )
        rows = clean(lines.reshape(-1, length), threshold, jnp.clip(max_width, 1, length - 1).astype(jnp.int32))
        cleaned = jnp.moveaxis(rows.reshape(lines.shape), -1, axis)
    return (cleaned, cleaned != images) if return_mask else cleaned


def _for_any_batch(steps: int, edge_span: int, spare_wide: bool) -> Callable[[Array, Array, Array], Array]:
    """The form for the platform, with its own vmap rule: a batch is only more rows.

    JAX's own rule for the loop in `_clean_octets` would copy the whole batch in each of its rounds.
    """

    @jax.custom_batching.custom_vmap
    def clean(rows: Array, threshold: Array, max_width: Array) -> Array:
        return lax.platform_dependent(
            rows,
            threshold,
            max_width,
            cpu=functools.partial(_clean_octets, steps=steps, edge_span=edge_span, spare_wide=spare_wide),
            default=functools.partial(_clean_words, edge_span=edge_span, spare_wide=spare_wide),
        )

    @clean.def_vmap
    def batch_rule(size: int, batched: Sequence[bool], *arguments: Array) -> tuple[Array, bool]:
        if list(batched) == [True, False, False]:
            rows, threshold, max_width = arguments
            return clean(rows.reshape(-1, rows.shape[-1]), threshold, max_width).reshape(rows.shape), True
        whole = [
            argument if is_batched else jnp.broadcast_to(argument, (size, *argument.shape))
            for argument, is_batched in zip(arguments, batched, strict=True)
        ]
        return lax.map(lambda one: clean(*one), tuple(whole)), True

    return clean


def _shift(x: Array, by: int, fill: Any) -> Array:
    """Moves the last axis to the right by `by` pixels (to the left where negative), and fills the gap."""
    by = max(-x.shape[-1], min(by, x.shape[-1]))
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(by, -by, 0)])


def _edges(x: Array, threshold: Array, span: int) -> tuple[Array, Array]:
    """Up-edges and down-edges of uint8 (..., W): two bool (..., W). No difference here can wrap around.

    `max(a, b) - b` is a - b or, where that were negative, 0: all of it fits a byte, and the film is read as bytes.
    """
    width = x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(span, span - 1)])

    def at(offset: int) -> Array:
        return padded[..., span + offset : span + offset + width]

    ahead = functools.reduce(jnp.maximum, (at(step) for step in range(span)))
    behind = functools.reduce(jnp.maximum, (at(-step) for step in range(1, span + 1)))
    ups = (jnp.maximum(ahead, at(-1)) - at(-1) >= threshold) & (jnp.arange(width) > 0)
    downs = jnp.maximum(behind, x) - x >= threshold
    if span > 1:
        ups &= x > at(-1)
        downs &= at(-1) > x
        ups, downs = ups & ~_shift(ups, 1, False), downs & ~_shift(downs, -1, False)
    return ups, downs


def _floor_mean(a: Array, b: Array) -> Array:
    """(a + b) // 2 of uint8, which a + b would overflow: the bits in common, and half of those that differ."""
    return (a & b) + ((a ^ b) >> 1)


# The form for CPUs: eight rows to a byte, and doubling


State = tuple[Array, ...]  # of a doubling: arrays of one shape, pixels along the last axis


def _clean_octets(
    rows: Array, threshold: Array, max_width: Array, *, steps: int, edge_span: int, spare_wide: bool
) -> Array:
    """uint8 (N, W) -> uint8 (N, W). `steps` such that 2**steps > max_width.

    Works in place, in chunks that stay in a core's cache. Reading a chunk once for its edges is the dear part; the
    bits that come out are an eighth of it; grey levels are written a window at a time, from each octet with a pair on.
    """
    count, width = rows.shape
    octets = jnp.pad(rows, ((0, -count % OCTET), (0, 0))).reshape(-1, OCTET, width)
    chunk = min(len(octets), max(1, CHUNK // (OCTET * width)))
    window = -(-chunk // WINDOWS)

    def clean_chunk(index: Array, octets: Array) -> Array:
        first = jnp.minimum(index * chunk, len(octets) - chunk)  # the last chunk may begin in the one before it
        films = lax.dynamic_slice_in_dim(octets, first, chunk)
        ups, downs = _edges(films, threshold, edge_span)
        inside = _inside_pairs(_pack(ups), _pack(downs), max_width, steps, spare_wide)  # (chunk, W)
        unseen = first + jnp.arange(chunk) >= index * chunk
        inside = jnp.where(unseen[:, None], inside, 0)
        busy = inside.max(axis=-1) > 0

        def fill_next(state: tuple[Array, Array]) -> tuple[Array, Array]:
            busy, octets = state
            start = jnp.minimum(jnp.argmax(busy), chunk - window)  # a row filled twice keeps its bits
            some = lax.dynamic_slice_in_dim(octets, first + start, window)
            filled = _fill(some, _unpack(lax.dynamic_slice_in_dim(inside, start, window)), max_width, steps)
            busy = lax.dynamic_update_slice_in_dim(busy, jnp.zeros(window, bool), start, 0)
            return busy, lax.dynamic_update_slice_in_dim(octets, filled, first + start, 0)

        return lax.while_loop(lambda state: state[0].any(), fill_next, (busy, octets))[1]

    cleaned = lax.fori_loop(0, -(-len(octets) // chunk), clean_chunk, octets)
    return cleaned.reshape(-1, width)[:count]


def _pack(bits: Array) -> Array:
    """bool (..., 8, W) -> uint8 (..., W): row r of the eight is bit r."""
    return jnp.sum(bits.astype(jnp.uint8) << _rows_of_octet(), axis=-2, dtype=jnp.uint8)


def _unpack(octets: Array) -> Array:
    """uint8 (..., W) -> bool (..., 8, W)."""
    return (octets[..., None, :] & (jnp.uint8(1) << _rows_of_octet())) != 0  # not a shift: AVX2 has none for bytes


def _rows_of_octet() -> Array:
    return jnp.arange(OCTET, dtype=jnp.uint8)[:, None]


def _inside_pairs(ups: Array, downs: Array, max_width: Array, steps: int, spare_wide: bool) -> Array:
    """Which pixels are to be replaced: remark 2. Bits in and out, uint8 (octets, W)."""
    near = _before(downs, max_width, steps)
    starts = ups & near
    if spare_wide:  # an up-edge too far from its down-edge spoils the stretch, however long that is
        starts &= ~_held(ups & ~near, downs, jnp.int32(ups.shape[-1]), (ups.shape[-1] - 1).bit_length())
    return _held(starts, downs, max_width, steps)


def _before(events: Array, reach: Array, steps: int) -> Array:
    """Pixels with an event among the next `reach`: doubling, where `reach` is any number and may be traced.

    After m steps `window` looks 2**m pixels ahead, and `near` as many as the lowest m bits of `reach` say. Where bit m
    is set, the next window is put in FRONT of what `near` saw, so all shifts are powers of two and known beforehand.
    """

    def step(here: State, there: State, shift: int) -> State:
        (near, window), (near_there, window_there) = here, there
        return jnp.where((reach & shift) != 0, window | near_there, near), window | window_there

    return _doubling(step, (jnp.zeros_like(events), _shift(events, -1, 0)), 0, reach, steps, ahead=True)[0]


def _held(starts: Array, stops: Array, reach: Array, steps: int) -> Array:
    """From each start up to, not including, the next stop, at most 2**steps pixels: a latch, set and cleared."""

    def step(here: State, there: State, shift: int) -> State:
        (on, free), (on_there, free_there) = here, there  # free: none of the last 2**m pixels stops
        return on | (free & on_there), free & free_there

    return _doubling(step, (starts, ~stops), 0, reach, steps, ahead=False)[0]


def _fill(rows: Array, inside: Array, reach: Array, steps: int) -> Array:
    """Replaces runs by the mean of the untouched pixels at their ends, uint8 (..., W): remark 3.

    White stands for "not known yet". The two ends are never white, since a jump leads up from both.
    """
    unknown = jnp.where(inside, jnp.uint8(WHITE), rows)

    def step(here: State, there: State, shift: int) -> State:
        return (jnp.where(here[0] != WHITE, here[0], there[0]),)

    (left,) = _doubling(step, (unknown,), WHITE, reach, steps, ahead=False)
    (right,) = _doubling(step, (unknown,), WHITE, reach, steps, ahead=True)
    return jnp.where(inside, _floor_mean(left, right), rows)


def _doubling(
    step: Callable[[State, State, int], State], state: State, beyond: int, reach: Array, steps: int, ahead: bool
) -> State:
    """`step(here, there, shift)` for shift = 1, 2, 4, ..., 2**(steps-1); beyond `reach` nothing changes.

    `there` is what stands `shift` pixels ahead, or else behind. The margin of `beyond` that the shifts reach into is
    made at once, and each step eats its share: a slice has no border to ask about, so any CPU's compiler vectorises it.
    """
    margin = 2**steps - 1
    sides = [(0, 0, 0)] * (state[0].ndim - 1) + [(0, margin, 0) if ahead else (margin, 0, 0)]

    def put_margin(*state: Array) -> State:
        return tuple(lax.pad(x, jnp.asarray(beyond, x.dtype), sides) for x in state)

    def here(shift: int, *state: Array) -> State:
        return tuple(x[..., :-shift] if ahead else x[..., shift:] for x in state)

    def there(shift: int, *state: Array) -> State:
        return tuple(x[..., shift:] if ahead else x[..., :-shift] for x in state)

    def run(shift: int, *state: Array) -> State:
        return step(here(shift, *state), there(shift, *state), shift)

    state = _apart(put_margin, reach, *state)
    for shift in (1 << m for m in range(steps)):
        state = lax.cond(reach >= shift, functools.partial(run, shift), functools.partial(here, shift), *state)
    return state


def _apart(function: Callable[..., State], reach: Array, *state: Array) -> State:
    """`function(*state)`, `reach` being at least 1. XLA fuses nothing through a branch, the never taken one is empty.

    Fused, all steps of a doubling would become one that computes 2**steps pixels for each pixel it writes, and the
    margin's border would be asked about at each of them.
    """
    shapes = jax.eval_shape(function, *state)
    return lax.cond(reach >= 1, function, lambda *_: tuple(jnp.zeros(x.shape, x.dtype) for x in shapes), *state)


# The form for accelerators: 32 pixels to a word, and counts of zeros


def _clean_words(rows: Array, threshold: Array, max_width: Array, *, edge_span: int, spare_wide: bool) -> Array:
    """uint8 (N, W) -> uint8 (N, W): the rule, asked pixel by pixel. A few fused passes, no loop."""
    columns = jnp.broadcast_to(jnp.arange(rows.shape[-1], dtype=jnp.int32), rows.shape)
    ups, downs = _edges(rows, threshold, edge_span)
    downs = _to_words(downs)
    end = _first_from(downs, columns + 1)
    if not spare_wide:
        ups &= end - columns <= max_width
    start = _first_from(_to_words(ups), _last_until(downs, columns))
    inside = (start <= columns) & (end - start <= max_width)
    left = jnp.take_along_axis(rows, start - 1, axis=-1, mode="clip")
    right = jnp.take_along_axis(rows, end, axis=-1, mode="clip")
    return jnp.where(inside, _floor_mean(left, right), rows)


def _to_words(bits: Array) -> Array:
    """bool (N, W) -> uint32 (N, W // 32 + 1): column c is bit c % 32 of word c // 32. Column W exists, and is off."""
    padded = jnp.pad(bits, ((0, 0), (0, WORD - bits.shape[-1] % WORD)))
    words = padded.reshape(len(bits), -1, WORD).astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)
    return words.sum(axis=-1, dtype=jnp.uint32)


def _first_from(words: Array, columns: Array) -> Array:
    """The first set column at or after each of `columns` (N, W), each 0 ... W; NOWHERE where there is none."""
    here = _word_at(words, columns) >> (columns & (WORD - 1)).astype(jnp.uint32)
    firsts = jnp.where(words != 0, _word_starts(words) + _trailing_zeros(words), NOWHERE)
    later = _shift(lax.cummin(firsts, axis=1, reverse=True), -1, NOWHERE)
    return jnp.where(here != 0, columns + _trailing_zeros(here), _word_at(later, columns))


def _last_until(words: Array, columns: Array) -> Array:
    """The last set column at or before each of `columns` (N, W), each 0 ... W; 0 where there is none."""
    here = _word_at(words, columns) << (WORD - 1 - (columns & (WORD - 1))).astype(jnp.uint32)
    lasts = jnp.where(words != 0, _word_starts(words) + WORD - 1 - lax.clz(words).astype(jnp.int32), 0)
    earlier = _shift(lax.cummax(lasts, axis=1), 1, 0)
    return jnp.where(here != 0, columns - lax.clz(here).astype(jnp.int32), _word_at(earlier, columns))


def _word_at(words: Array, columns: Array) -> Array:
    return jnp.take_along_axis(words, columns >> WORD_LOG2, axis=1, mode="clip")


def _word_starts(words: Array) -> Array:
    return WORD * jnp.arange(words.shape[-1], dtype=jnp.int32)


def _trailing_zeros(words: Array) -> Array:
    """int32; 32 for the word 0."""
    return lax.population_count(~words & (words - 1)).astype(jnp.int32)


# The command line


class Job(NamedTuple):
    """A film to clean, and what will be written."""

    source: Path
    name: Path  # below the input folder, and again below the output folder
    cleaned: Path
    sheet: Path


class Options(NamedTuple):
    """What the flags say about the rule."""

    threshold: int
    max_width: int
    edge_span: int
    axes: tuple[int, ...]
    spare_wide: bool


def clean_files(source: Path, out: Path, options: Options, compare: bool = False) -> dict[Path, str]:
    """Cleans a film or a folder of films into `out`; gives what could not be read, and why.

    Writes PNGs under the films' own names, `changed.csv` with the share of pixels changed, and with `compare` a sheet
    `sheets/NAME` for each film: before, after, difference.

    Raises:
      DataError: the input is missing or empty, or what is to be written would fall on what is to be read.
    """
    jobs = _plan(source, out)
    broken: dict[Path, str] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clean_jobs(jobs, out, options, compare, broken)
    except OSError as error:
        raise DataError(f"cannot write to --out={out}: {error}") from error
    if broken and not source.is_dir():
        raise DataError(broken[source])
    return broken


def _clean_jobs(jobs: list[Job], out: Path, options: Options, compare: bool, broken: dict[Path, str]) -> None:
    """Reading and writing run in threads, beside the device; memory holds a few batches, whatever the folder's size."""
    rows: dict[Path, tuple[int, int]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress_bar(len(jobs), "cleaning") as bar:
        for batch in _batches(jobs, pool, broken, bar):
            films = np.stack([film for _, film in batch])
            films = np.concatenate([films, np.zeros_like(films[:1]).repeat(min(BATCH, len(jobs)) - len(films), axis=0)])
            cleaned, mask = jax.device_get(remove_artifacts(films, **options._asdict(), return_mask=True))
            writing = [
                pool.submit(_write, job, film, cleaned[index], mask[index], compare)
                for index, (job, film) in enumerate(batch)
            ]
            for index, (job, film) in enumerate(batch):
                writing[index].result()
                rows[job.name] = (int(mask[index].sum()), film.size)
            bar.update(len(batch))
    _write_table(out / "changed.csv", [(job.name, *rows[job.name]) for job in jobs if job.name in rows])


def _plan(source: Path, out: Path) -> list[Job]:
    if source.is_dir():
        names = sorted(
            path.relative_to(source) for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        folder = source
    elif source.is_file():
        names, folder = [Path(source.name)], source.parent
    else:
        raise DataError(f"{source}: no such file or folder")
    if not names:
        raise DataError(f"{source}: no film in it or below it (looked for {', '.join(SUFFIXES)})")
    if out.exists() and not out.is_dir():
        raise DataError(f"--out={out} is a file, not a folder")
    real_out, real_folder = (Path(os.path.realpath(path)) for path in (out, folder))
    if real_out == real_folder or (source.is_dir() and real_folder in real_out.parents):
        raise DataError(f"--out={out} lies in the input folder {folder}: films would be overwritten, or cleaned twice")
    jobs = []
    for name in names:
        written = name if name.suffix.lower() == ".png" else name.with_name(name.name + ".png")
        jobs.append(Job(folder / name, name, out / written, out / "sheets" / written))
    _check_outputs(jobs)
    return jobs


def _check_outputs(jobs: Sequence[Job]) -> None:
    """No two films may be written to one place, and none over a film that is to be read."""
    sources = {os.path.realpath(job.source) for job in jobs}
    taken: dict[str, Path] = {}
    for job in jobs:
        for path in (job.cleaned, job.sheet):
            real = os.path.realpath(path)
            if real in sources:
                raise DataError(f"{path}: this film would be overwritten; choose another --out")
            if taken.setdefault(real, job.source) != job.source:
                raise DataError(f"{taken[real]} and {job.source} would both become {path}; rename one")


def _batches(
    jobs: Iterable[Job], pool: ThreadPoolExecutor, broken: dict[Path, str], bar: Any
) -> Iterator[list[tuple[Job, np.ndarray]]]:
    """Films of equal size, `BATCH` at a time: one compilation a size, whatever the order of the files.

    At most `WAITING` wait for others of their size; beyond that the largest group goes as it is.
    """
    waiting: dict[tuple[int, ...], list[tuple[Job, np.ndarray]]] = defaultdict(list)
    jobs = iter(jobs)
    while some := list(itertools.islice(jobs, BATCH)):
        for job, film in zip(some, pool.map(_read_or_reason, some), strict=True):
            if isinstance(film, str):
                broken[job.source] = film
                bar.update(1)
                continue
            same = waiting[film.shape]
            same.append((job, film))
            if len(same) == BATCH:
                yield waiting.pop(film.shape)
            elif sum(map(len, waiting.values())) > WAITING:
                yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()


def _read_or_reason(job: Job) -> np.ndarray | str:
    try:
        return read_grey(job.source)
    except DataError as error:
        return str(error)


def _write(job: Job, before: np.ndarray, after: np.ndarray, mask: np.ndarray, compare: bool) -> None:
    for path, wanted in ((job.cleaned, True), (job.sheet, compare)):
        if wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            sheet = path == job.sheet
            image = comparison(before, after, mask, printable(job.name)) if sheet else Image.fromarray(after)
            image.save(path, format="PNG")


def comparison(before: np.ndarray, after: np.ndarray, mask: np.ndarray, title: str = "") -> Image.Image:
    """A sheet of three panels: before, after, and the film dimmed with its changed pixels in colour.

    Red became darker, blue brighter; the stronger the colour, the larger the change. All (H, W): uint8, uint8, bool.
    """
    change = np.where(mask, after.astype(np.int16) - before, 0)[..., None]
    strength = 128 + np.abs(change) // 2
    colour = np.where(change < 0, np.array([1, 0.25, 0.1]), np.array([0.2, 0.5, 1])) * strength
    difference = np.where(mask[..., None], colour, before[..., None] * 0.45).astype(np.uint8)
    height, width = before.shape
    size = max(10, min(28, width // 28))
    font, bar = ImageFont.load_default(size), size + 10
    sheet = Image.new("RGB", (3 * width, height + bar), "black")
    draw = ImageDraw.Draw(sheet)
    labels = (f"before  {title}", "after", f"{mask.mean():.3%} changed: red darker, blue brighter")
    for index, (panel, label) in enumerate(zip((before, after, difference), labels, strict=True)):
        sheet.paste(Image.fromarray(panel), (index * width, bar))
        while len(label) > 1 and draw.textlength(label, font=font) > width - 8:
            label = label[:-1]
        draw.text((index * width + 4, 3), label, fill="white", font=font)
    return sheet


def _write_table(path: Path, rows: Iterable[tuple[Path, int, int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["Image Index", "changed_share", "changed_pixels", "path"])
        table.writerows(
            [_cell(name.name), f"{changed / pixels:.6f}", changed, _cell(name.as_posix())]
            for name, changed, pixels in rows
        )


def _cell(name: str) -> str:
    return spreadsheet.cell(printable(name))


AXES: Final = {"rows": ROWS, "columns": COLUMNS}


def _parse(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "The folder for cleaned films, sheets, changed.csv.", flag_values=values)
    flags.DEFINE_boolean("compare", False, "Also draws before, after, difference.", flag_values=values)
    flags.DEFINE_integer("threshold", THRESHOLD, "The least jump, 1 to 255 grey levels.", flag_values=values)
    flags.DEFINE_integer("max_width", MAX_WIDTH, "The widest object, in pixels.", flag_values=values)
    flags.DEFINE_integer("edge_span", 1, "Pixels over which a jump may ramp.", flag_values=values)
    flags.DEFINE_list("axes", ["rows"], "rows, columns, or rows,columns.", flag_values=values)
    flags.DEFINE_boolean("spare_wide", False, "Leaves too wide objects wholly alone.", flag_values=values)
    return values, parse(argv, values, __doc__)


def _options(values: flags.FlagValues) -> Options:
    if unknown := [axis for axis in values.axes if axis not in AXES]:
        raise ConfigError(f"--axes knows rows and columns, not {', '.join(unknown)}")
    options = Options(
        values.threshold,
        values.max_width,
        values.edge_span,
        tuple(AXES[axis] for axis in values.axes),
        values.spare_wide,
    )
    try:
        _checked(np.zeros((1, 1), np.uint8), *options[:4])
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return options


@command
def main() -> None:
    values, rest = _parse(sys.argv)
    if len(rest) != 1 or not values.out:
        raise ConfigError("usage: python -m chexjax.scanline FILE_OR_FOLDER --out=DIR [--compare]; --help says more")
    out = Path(values.out)
    broken = clean_files(Path(rest[0]), out, _options(values), values.compare)
    if broken:
        for reason in broken.values():
            print(printable_lines(reason), file=sys.stderr)
        fail(f"not cleaned: {first_ten([str(path) for path in broken])}")
    print(f"cleaned films and changed.csv are in {out}")


if __name__ == "__main__":
    main()
