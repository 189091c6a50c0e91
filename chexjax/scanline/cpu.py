"""The CPU's form: eight rows to a byte, and doubling."""

import functools
from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array, lax

from chexjax.scanline.rule import WHITE, edges, floor_mean, shifted

OCTET: Final = 8  # rows that share a byte
CHUNK: Final = 2**19  # bytes of film in a chunk: with its intermediate results, it fills a core's cache
WINDOWS: Final = 16  # windows in a chunk; octets are filled one window at a time

State = tuple[Array, ...]  # of a doubling: arrays of one shape, pixels along the last axis


def clean_octets(
    rows: Array, threshold: Array, max_width: Array, *, steps: int, edge_span: int, spare_wide: bool
) -> Array:
    """uint8 (N, W) -> uint8 (N, W). `steps` such that 2**steps > max_width.

    Works in place, in chunks that fit a core's cache. Most time goes into reading a chunk once for its edges; the edge
    bits are an eighth of its size. Grey levels are then written only in octets with a pair, one window at a time.
    """
    count, width = rows.shape
    octets = jnp.pad(rows, ((0, -count % OCTET), (0, 0))).reshape(-1, OCTET, width)
    chunk = min(len(octets), max(1, CHUNK // (OCTET * width)))
    window = -(-chunk // WINDOWS)

    def clean_chunk(index: Array, octets: Array) -> Array:
        first = jnp.minimum(index * chunk, len(octets) - chunk)  # the last chunk may begin in the one before it
        films = lax.dynamic_slice_in_dim(octets, first, chunk)
        ups, downs = edges(films, threshold, edge_span)
        inside = _inside_pairs(_pack(ups), _pack(downs), max_width, steps, spare_wide)  # (chunk, W)
        unseen = first + jnp.arange(chunk) >= index * chunk
        inside = jnp.where(unseen[:, None], inside, 0)
        busy = inside.max(axis=-1) > 0

        def fill_next(state: tuple[Array, Array]) -> tuple[Array, Array]:
            busy, octets = state
            start = jnp.minimum(jnp.argmax(busy), chunk - window)  # filling a row twice changes nothing
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
    """The pixels to replace, by remark 2 of the package's docstring. Bits in and out, uint8 (octets, W)."""
    near = _before(downs, max_width, steps)
    starts = ups & near
    if spare_wide:  # an up-edge too far from its down-edge blocks the whole stretch
        starts &= ~_stopped_within(ups & ~near, downs, jnp.int32(ups.shape[-1]), (ups.shape[-1] - 1).bit_length())
    return _stopped_within(starts, downs, max_width, steps)


def _before(events: Array, reach: Array, steps: int) -> Array:
    """Pixels with an event among the next `reach`, by doubling; `reach` may be any number, and traced.

    After m steps `window` covers 2**m pixels ahead, and `near` as many as the lowest m bits of `reach` say. If bit m is
    set, the window is placed in FRONT of what `near` covers, so all shifts are powers of two, known when compiling.
    """

    def step(here: State, there: State, shift: int) -> State:
        (near, window), (near_there, window_there) = here, there
        return jnp.where((reach & shift) != 0, window | near_there, near), window | window_there

    return _doubling(step, (jnp.zeros_like(events), shifted(events, -1, 0)), 0, reach, steps, ahead=True)[0]


def _stopped_within(starts: Array, stops: Array, reach: Array, steps: int) -> Array:
    """True from each start up to, not including, the next stop, at most 2**steps pixels: a set-reset latch."""

    def step(here: State, there: State, shift: int) -> State:
        (on, free), (on_there, free_there) = here, there  # free: no stop among the last 2**m pixels
        return on | (free & on_there), free & free_there

    return _doubling(step, (starts, ~stops), 0, reach, steps, ahead=False)[0]


def _fill(rows: Array, inside: Array, reach: Array, steps: int) -> Array:
    """Replaces runs by the mean of the untouched pixels at their ends, uint8 (..., W): remark 3.

    White (255) means "not known yet". The two ends are never white, since the levels rise from both.
    """
    unknown = jnp.where(inside, jnp.uint8(WHITE), rows)

    def step(here: State, there: State, shift: int) -> State:
        return (jnp.where(here[0] != WHITE, here[0], there[0]),)

    (left,) = _doubling(step, (unknown,), WHITE, reach, steps, ahead=False)
    (right,) = _doubling(step, (unknown,), WHITE, reach, steps, ahead=True)
    return jnp.where(inside, floor_mean(left, right), rows)


def _doubling(
    step: Callable[[State, State, int], State], state: State, beyond: int, reach: Array, steps: int, ahead: bool
) -> State:
    """`step(here, there, shift)` for shift = 1, 2, 4, ..., 2**(steps-1); beyond `reach` nothing changes.

    `there` is `here` shifted by `shift` pixels, ahead or behind. The array is padded once by the sum of all shifts, and
    each step uses up its part: slices need no test for the border, so every CPU's compiler vectorises them.
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
    """`function(*state)` in a branch that is always taken (`reach` >= 1), because XLA does not fuse through branches.

    Fused, the steps of a doubling would become one kernel that computes 2**steps pixels for each pixel it writes.
    """
    shapes = jax.eval_shape(function, *state)
    return lax.cond(reach >= 1, function, lambda *_: tuple(jnp.zeros(x.shape, x.dtype) for x in shapes), *state)
