"""The accelerators' form: 32 pixels to a word, and counts of zeros.

Only the first and the last pass read or write whole pixels; all others work on words, an eighth of a byte a pixel. For
each pixel, "where is the next down-edge?" is answered by its own word or, if that holds none, by the nearest word that
has one: one number a word, broadcast over its 32 pixels inside the pass that needs it.
"""

from functools import partial
from typing import Final

import jax.numpy as jnp
from jax import Array, lax

from chexjax.scanline.rule import NOWHERE, edges, floor_mean, shifted

WORD: Final = 32  # pixels that share a word
BIT: Final = tuple(range(WORD))
MOST: Final = 2**31  # pixels that an int32 can index


def clean_words(rows: Array, threshold: Array, max_width: Array, *, edge_span: int, spare_wide: bool) -> Array:
    """uint8 (N, W) -> uint8 (N, W): the rule for all pixels at once: a few fused passes, no loop."""
    if rows.size >= MOST and len(rows) > 1:
        clean = partial(clean_words, edge_span=edge_span, spare_wide=spare_wide)
        return jnp.concatenate([clean(half, threshold, max_width) for half in jnp.array_split(rows, 2)])
    ups, downs = (_to_words(events) for events in edges(rows, threshold, edge_span))
    end, last_down = _first_after(downs), _last(downs, nowhere=0)
    if spare_wide:
        ups = _pack(_bits(ups) & (_last(ups, nowhere=-1, strictly=True) < last_down))
    columns = _starts(ups)[:, None] + jnp.array(BIT)
    near = _pack(_bits(ups) & (end - columns <= max_width))
    # A pixel is inside a pair if a pair has begun at or before it and no down-edge has come since.
    outside = _pack(_last(near, nowhere=-1) <= last_down)
    left, right = (_pixels_at(rows, column) for column in (_last(outside, nowhere=0), end))
    return jnp.where(_cut(_bits(outside), rows), rows, floor_mean(left, right))


# Words (N, K) and their pixels (N, K, 32): column c is bit c % 32 of word c // 32.
# Column W is one past the film and has no edge.


def _to_words(events: Array) -> Array:
    """bool (N, W) -> uint32 (N, W // 32 + 1)."""
    padded = jnp.pad(events, ((0, 0), (0, WORD - events.shape[-1] % WORD)))
    return _pack(padded.reshape(len(events), -1, WORD))


def _pack(bits: Array) -> Array:
    """bool (N, K, 32) -> uint32 (N, K)."""
    return (bits.astype(jnp.uint32) << jnp.array(BIT, jnp.uint32)).sum(axis=-1, dtype=jnp.uint32)


def _bits(words: Array) -> Array:
    """The inverse of `_pack`."""
    return (words[..., None] >> jnp.array(BIT, jnp.uint32)) & 1 != 0


def _first_after(words: Array) -> Array:
    """For each pixel the first set column after it, int32 (N, K, 32); NOWHERE where there is none."""
    here = words[..., None] & ~_up_to(strictly=False)
    firsts = jnp.where(words != 0, _starts(words) + _trailing_zeros(words), NOWHERE)
    later = shifted(lax.cummin(firsts, axis=1, reverse=True), -1, NOWHERE)
    starts, zeros = _starts(words)[:, None], _trailing_zeros(here)
    # As `where(here != 0, starts + zeros, later)`, but XLA would write that condition to memory. Where `here` is 0,
    # `zeros` is 32, and `zeros >> 5` is 1; elsewhere that is 0.
    return starts + zeros + (zeros >> 5) * (later[..., None] - starts - WORD)


def _last(words: Array, nowhere: int, strictly: bool = False) -> Array:
    """For each pixel the last set column at it or before (`strictly`: before), int32 (N, K, 32)."""
    here = words[..., None] & _up_to(strictly)
    lasts = jnp.where(words != 0, _starts(words) + _highest(words), nowhere)
    earlier = shifted(lax.cummax(lasts, axis=1), 1, nowhere)
    return jnp.where(here != 0, _starts(words)[:, None] + _highest(here), earlier[..., None])


def _up_to(strictly: bool) -> Array:
    """For each bit of a word, the mask of the bits up to it: uint32 (32,). 2 << 31 is 0, and 0 - 1 all ones."""
    return (jnp.uint32(1 if strictly else 2) << jnp.array(BIT, jnp.uint32)) - 1


def _starts(words: Array) -> Array:
    return WORD * jnp.arange(words.shape[-1], dtype=jnp.int32)


def _highest(words: Array) -> Array:
    """int32, the index of the highest set bit; -1 for the word 0."""
    return WORD - 1 - lax.clz(words).astype(jnp.int32)


def _trailing_zeros(words: Array) -> Array:
    """int32; 32 for the word 0."""
    return lax.population_count(~words & (words - 1)).astype(jnp.int32)


def _cut(pixels: Array, rows: Array) -> Array:
    """(N, K, 32) -> the shape of `rows`."""
    return pixels.reshape(len(rows), -1)[:, : rows.shape[-1]]


def _pixels_at(rows: Array, columns: Array) -> Array:
    """Each row's grey levels at `columns` (N, K, 32), gathered by flat index: (N, W).

    With a row and a column index for each pixel, XLA would first write both to memory, four times all other traffic.
    """
    count, width = rows.shape
    numbers = jnp.arange(count, dtype=jnp.int32)[:, None] * width + jnp.minimum(_cut(columns, rows), width - 1)
    return rows.reshape(-1).at[numbers].get(mode="promise_in_bounds")
