"""Branches against whole networks: the same logits, parameters counted, halves that fit together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.errors import ConfigError
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import create_branched_model, create_model
from chexjax.models.network import by_names
from tests.networks import drawn, make_shallow

GROUPS = by_names(SPECIALIST_GROUPS, FINDINGS)
SHAPE = (32, 32, 1)


@pytest.fixture(scope="module")
def films() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, *SHAPE))


def whole_networks(outputs: list[int]) -> list[tuple]:
    """Whole networks with so many outputs, and their variables."""
    models = [create_model("tiny2", count, width=0.125) for count in outputs]
    return [(model, drawn(model, *SHAPE, seed=k)) for k, model in enumerate(models)]


def test_specialists_give_what_their_four_networks_give(films: jax.Array) -> None:
    wholes = whole_networks([len(group) for group in GROUPS])
    model = create_branched_model("tiny2", GROUPS, width=0.125)
    variables = model.assemble([variables for _, variables in wholes], SHAPE)
    found = jax.jit(lambda v, x: model.apply(v, x))(variables, films)
    assert (found.shape, found.dtype) == ((3, 14), jnp.float32)
    for (whole, own), group in zip(wholes, GROUPS, strict=True):
        np.testing.assert_allclose(found[:, jnp.array(group)], whole.apply(own, films), atol=1e-5)


def test_branches_of_one_network_give_what_it_gives(films: jax.Array) -> None:
    """Cut after its first stage, each branch a copy of the rest: the whole network's 14 logits."""
    ((whole, own),) = whole_networks([14])
    model = create_branched_model("tiny2", GROUPS, 1, width=0.125)
    variables = model.assemble([own] * len(GROUPS), SHAPE)
    shapes = jax.eval_shape(model.init, jax.random.key(0), films)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, dict(shapes))
    np.testing.assert_allclose(model.apply(variables, films), whole.apply(own, films), atol=1e-5)


def test_a_logit_is_the_mean_over_places(films: jax.Array) -> None:
    """`classify` at each place of the map, averaged: what explanations rely on."""
    model = create_branched_model("tiny2", GROUPS, 1, width=0.125)
    variables = drawn(model, *SHAPE)
    features = model.apply(variables, films, method="features")
    assert features.shape == (3, 4, 4, 4 * 16)
    cells = features.reshape(-1, 1, 1, features.shape[-1])
    maps = model.apply(variables, cells, method="classify").reshape(3, -1, 14)
    np.testing.assert_allclose(maps.mean(1), model.apply(variables, films), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "densenet121",
        "densenet169",
        "mobilenet_v2",
        "convnext_tiny",
        "efficientnet_b0",
        "vit_small_16",
        "swin_t",
    ],
)
def test_networks_can_be_cut_after_every_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared and branched parameters together are the whole network's, the branched ones four times."""
    if name not in ("resnet18", "densenet121"):  # two are enough at full depth
        make_shallow(monkeypatch, name)
    sample = jnp.zeros((1, 64, 64, 1))

    def count(tree: dict) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    whole = jax.eval_shape(create_model(name).init, jax.random.key(0), sample)["params"]["trunk"]
    for stages in range(4):
        params = jax.eval_shape(create_branched_model(name, GROUPS, stages).init, jax.random.key(0), sample)["params"]
        shared = params.get("shared", {})
        assert not shared.keys() & params["branch"]["trunk"].keys()
        assert shared.keys() | params["branch"]["trunk"].keys() == whole.keys()
        assert count(shared) + count(params["branch"]["trunk"]) // 4 == count(whole)


@pytest.mark.parametrize("groups", [((0, 1), (1, 2)), ((0,), (2,)), ((0, 1), ()), ((),)])
def test_groups_must_hold_every_output_once(groups: tuple) -> None:
    with pytest.raises(ConfigError, match="every output once"):
        create_branched_model("tiny2", groups, width=0.125)
