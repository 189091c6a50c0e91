"""Self-attention of several heads, as the ViTs and Swins use it."""

import jax
import jax.numpy as jnp


def attend(qkv: jax.Array, heads: int, bias: jax.Array | None = None) -> jax.Array:
    """What each token gathers from all tokens of its set (Vaswani et al., "Attention Is All You Need", 2017, 3.2).

    Args:
      qkv: (..., tokens, 3 * channels): queries, keys and values, each head's channels together.
      heads: how many; they divide the channels.
      bias: added to the logits, float, of a shape that broadcasts to (..., heads, tokens, tokens).

    Returns:
      (..., tokens, channels), of the dtype of `qkv`; the softmax is in float32.
    """
    *outer, tokens, wide = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(*outer, tokens, 3, heads, wide // 3 // heads), -3, 0)
    query *= query.shape[-1] ** -0.5
    logits = jnp.einsum("...qhc,...khc->...hqk", query, key, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(logits if bias is None else logits + bias, axis=-1)
    mixed = jnp.einsum("...hqk,...khc->...qhc", weights.astype(value.dtype), value)
    return mixed.reshape(*outer, tokens, wide // 3)
