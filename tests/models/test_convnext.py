"""What networks with dropout do in training, against torchvision's settings; maps through a norm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.explain.cam import class_activation_map
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_branched_model, create_model
from chexjax.models.convnext import Block
from chexjax.models.network import PooledNorm, by_names
from tests.networks import drawn, make_shallow

FILMS = jax.random.normal(jax.random.key(0), (2, 64, 64, 1))


def dropout_rates(name: str) -> list[float]:
    """Of the `nn.Dropout` layers, in the order in which they are called."""
    rates, model = [], create_model(name)

    def seen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(seen):
        jax.eval_shape(model.init, jax.random.key(0), FILMS)
    return rates


NAMES = ["convnext_tiny", "convnext_small", "mobilenet_v2", "efficientnet_b0", "efficientnet_b3", "swin_t"]


@pytest.mark.parametrize("name", NAMES)
def test_chances_of_dropout_are_torchvisions(name: str) -> None:
    models = pytest.importorskip("torchvision.models")
    network = models.get_model(name)
    for module in network.modules():
        if not getattr(module, "use_res_connect", True):  # an EfficientNet's block that never uses it
            module.stochastic_depth = None
    kinds = ("StochasticDepth",) if name == "swin_t" else ("StochasticDepth", "Dropout")  # a Swin's others are off
    theirs = [m.p for m in network.modules() if type(m).__name__ in kinds]
    if name == "swin_t":  # one serves both halves of its block
        theirs = np.repeat(theirs, 2)
    assert len(theirs) > 0
    np.testing.assert_allclose(dropout_rates(name), theirs, atol=1e-12)


def test_stochastic_depth_takes_or_leaves_whole_films() -> None:
    block, x = Block(drop=0.4), jax.random.normal(jax.random.key(1), (64, 4, 4, 8))
    variables = drawn(block, *x.shape[1:])
    branch = block.apply(variables, x, False) - x
    trained = block.apply(variables, x, True, rngs={"dropout": jax.random.key(2)}) - x
    passed = np.abs(trained).max((1, 2, 3)) == 0
    assert 0.2 < passed.mean() < 0.6
    np.testing.assert_allclose(trained[~passed], branch[~passed] / 0.6, rtol=1e-3, atol=1e-5)


def test_the_pooled_norm_is_a_layer_norm_and_its_places_have_its_mean() -> None:
    x = jax.random.normal(jax.random.key(1), (3, 5, 4, 16)) + jnp.linspace(0, 3, 16)
    mean = x.mean((1, 2))
    norm, variables = PooledNorm(1e-6), {"params": {"scale": jnp.linspace(0.5, 2, 16), "bias": jnp.linspace(-1, 1, 16)}}
    whole = norm.apply(variables, mean, mean)
    np.testing.assert_allclose(whole, nn.LayerNorm(1e-6).apply(variables, mean), atol=1e-5)
    places = norm.apply(variables, x, x.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(places.mean((1, 2)), whole, atol=1e-5)


@pytest.mark.parametrize("shared_stages", [None, 1])
def test_the_mean_of_a_map_through_the_norm_is_the_logit(
    shared_stages: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_shallow(monkeypatch, "convnext_tiny")
    if shared_stages is None:
        model: Any = create_model("convnext_tiny", width=0.05)
    else:
        model = create_branched_model("convnext_tiny", by_names(SPECIALIST_GROUPS, FINDINGS), shared_stages, width=0.05)
    variables = drawn(model, *FILMS.shape[1:])
    maps, logits = class_activation_map(model, variables, FILMS), jax.jit(model.apply)(variables, FILMS)
    assert maps.shape == (2, 2, 2, 14)
    assert np.ptp(maps, axis=(1, 2)).max() > 0.1
    np.testing.assert_allclose(maps.mean((1, 2)), logits, atol=1e-4)
