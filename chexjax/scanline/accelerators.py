"""The form for accelerators: 32 pixels to a word, and counts of zeros."""

from typing import Final

import jax.numpy as jnp
from jax import Array, lax

from chexjax.scanline.rule import NOWHERE, edges, floor_mean, shifted

WORD_LOG2: Final = 5
WORD: Final = 2**WORD_LOG2  # pixels that share a word


def clean_words(rows: Array, threshold: Array, max_width: Array, *, edge_span: int, spare_wide: bool) -> Array:
    """uint8 (N, W) -> uint8 (N, W): the rule, asked pixel by pixel. A few fused passes, no loop."""
    columns = jnp.broadcast_to(jnp.arange(rows.shape[-1], dtype=jnp.int32), rows.shape)
    ups, downs = edges(rows, threshold, edge_span)
    downs = _to_words(downs)
    end = _first_from(downs, columns + 1)
    if not spare_wide:
        ups &= end - columns <= max_width
    start = _first_from(_to_words(ups), _last_until(downs, columns))
    inside = (start <= columns) & (end - start <= max_width)
    left = jnp.take_along_axis(rows, start - 1, axis=-1, mode="clip")
    right = jnp.take_along_axis(rows, end, axis=-1, mode="clip")
    return jnp.where(inside, floor_mean(left, right), rows)


def _to_words(bits: Array) -> Array:
    """bool (N, W) -> uint32 (N, W // 32 + 1): column c is bit c % 32 of word c // 32. Column W exists, and is off."""
    padded = jnp.pad(bits, ((0, 0), (0, WORD - bits.shape[-1] % WORD)))
    words = padded.reshape(len(bits), -1, WORD).astype(jnp.uint32) << jnp.arange(WORD, dtype=jnp.uint32)
    return words.sum(axis=-1, dtype=jnp.uint32)


def _first_from(words: Array, columns: Array) -> Array:
    """The first set column at or after each of `columns` (N, W), each 0 ... W; NOWHERE where there is none."""
    here = _word_at(words, columns) >> (columns & (WORD - 1)).astype(jnp.uint32)
    firsts = jnp.where(words != 0, _word_starts(words) + _trailing_zeros(words), NOWHERE)
    later = shifted(lax.cummin(firsts, axis=1, reverse=True), -1, NOWHERE)
    return jnp.where(here != 0, columns + _trailing_zeros(here), _word_at(later, columns))


def _last_until(words: Array, columns: Array) -> Array:
    """The last set column at or before each of `columns` (N, W), each 0 ... W; 0 where there is none."""
    here = _word_at(words, columns) << (WORD - 1 - (columns & (WORD - 1))).astype(jnp.uint32)
    lasts = jnp.where(words != 0, _word_starts(words) + WORD - 1 - lax.clz(words).astype(jnp.int32), 0)
    earlier = shifted(lax.cummax(lasts, axis=1), 1, 0)
    return jnp.where(here != 0, columns - lax.clz(here).astype(jnp.int32), _word_at(earlier, columns))


def _word_at(words: Array, columns: Array) -> Array:
    return jnp.take_along_axis(words, columns >> WORD_LOG2, axis=1, mode="clip")


def _word_starts(words: Array) -> Array:
    return WORD * jnp.arange(words.shape[-1], dtype=jnp.int32)


def _trailing_zeros(words: Array) -> Array:
    """int32; 32 for the word 0."""
    return lax.population_count(~words & (words - 1)).astype(jnp.int32)
