"""Small networks of each later family through every regime, and a resumed run of them."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.configs import dml
from chexjax.models import NETWORKS, Architecture
from chexjax.models.convnext import ConvNeXt
from chexjax.models.efficientnet import EfficientNet
from chexjax.models.mobilenet import MobileNetV2
from chexjax.models.swin import Swin
from chexjax.models.vit import ViT
from chexjax.training import loop
from chexjax.training.objectives import bernoulli_kl, binary_cross_entropy
from chexjax.training.state import create_network
from chexjax.training.steps import Teacher, prepare
from chexjax.workdir.checkpoints import Checkpoints
from tests.conftest import shrink
from tests.stopped import train_until
from tests.test_new_network import arrays, film_batch, key_of, one_step, states_of

# Two stages of each, so that they can be cut; films go past their blocks, and units are dropped, more often than usual.
FAMILIES = {
    "efficientnet": Architecture(
        partial(EfficientNet, stages=(((1, 3, 1, 32, 1),), ((6, 5, 2, 24, 2),)), drop=0.5, dropout=0.5), "features_0_0"
    ),
    "mobilenet": Architecture(
        partial(MobileNetV2, stages=(((1, 32, 1, 1),), ((6, 24, 2, 2),)), dropout=0.5), "features_0_0"
    ),
    "convnext": Architecture(partial(ConvNeXt, stages=(1, 1), drop=0.5), "features_0_0", norm_epsilon=1e-6),
    "vit": Architecture(partial(ViT, stages=(1, 1), heads=2, scale=0.5, drop=0.5), "embed", has_map=False),
    "swin": Architecture(partial(Swin, stages=(2, 2), heads=1, drop=0.5), "features_0_0"),
}


@pytest.fixture(autouse=True)
def families() -> Iterator[None]:
    NETWORKS.update(FAMILIES)
    yield
    for name in FAMILIES:
        del NETWORKS[name]


def config_of(model: str, peer: str = "tiny"):
    """A family's network and a small ResNet, on films that are not augmented."""
    config = shrink(dml.get_config())
    config.networks.net1.update({"model": model, "seed": 1})
    config.networks.net2.model = peer
    config.sync_batch_norm = False  # so that a network can be applied by hand, too
    config.augment.update({"crop": 1.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0})
    return config


REGIMES = ("mutual", "distill", "specialists", "branches")
# All pairs with CHEXJAX_SOAK. Without it, every regime of one family with batch statistics and of one without; of the
# others the mutual one.
PAIRS = [
    (model, regime)
    for model in FAMILIES
    for regime in REGIMES
    if os.environ.get("CHEXJAX_SOAK") or model in ("mobilenet", "vit") or regime == "mutual"
]


@pytest.mark.parametrize(("model", "regime"), PAIRS)
def test_every_family_learns_in_every_regime(model: str, regime: str) -> None:
    """The step's losses are those of the network applied by hand with the documented key, and all of it moves."""
    config = config_of(model)
    config.regime = regime if regime in ("mutual", "distill") else "supervised"
    teacher, fixed = None, {}
    if regime == "distill":
        network, state = create_network(config, "net2"), states_of(config)[1]
        teacher, fixed = Teacher({"net2": network.apply}, 0.5, 0.25), {"net2": state.variables}
    if regime in ("specialists", "branches"):
        config.networks.net1.shared_stages = int(regime == "branches")
    states = states_of(config)
    moved, measured = one_step(config, states, teacher=teacher, fixed=fixed)

    share = {key: x[0] for key, x in film_batch(1).items()}
    x = prepare(share, 0, config.seed, config)["image"]
    state, mutable = states[0], list(states[0].collections)
    logits, _ = state.apply_fn(
        state.variables, x, train=True, rngs={"dropout": key_of(config.seed, 0, 0, 0)}, mutable=mutable
    )
    expected = binary_cross_entropy(logits, share["label"]).mean(0)
    np.testing.assert_allclose(measured["cross_entropy"][0], expected, rtol=1e-4, atol=1e-5)
    if regime == "mutual":
        peer, _ = states[1].apply_fn(states[1].variables, x, train=True, mutable=list(states[1].collections))
        np.testing.assert_allclose(measured["divergence"][0], bernoulli_kl(peer, logits), rtol=1e-3)
    still = jax.tree.map(lambda a, b: bool(jnp.all(a == b)), state.params, moved[0].params)
    assert np.mean(jax.tree.leaves(still)) < 0.5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moved[0].params))


@pytest.mark.parametrize("pair", [("vit", "swin"), ("efficientnet", "convnext")])
def test_stopped_and_resumed_they_end_bit_for_bit_the_same(
    pair: tuple[str, str], phantom_folder: Path, tmp_path: Path
) -> None:
    config = config_of(*pair)
    for network in config.networks.values():
        network.update({"optimizer": "adamw", "learning_rate": 1e-3})
    config.data.update({"source": "chestxray14", "dir": str(phantom_folder), "cache": str(tmp_path / "cache")})
    config.update({"max_steps": 4, "eval_epochs": 0.5})
    config.data.val_fraction = 0.3
    loop.train(config, tmp_path / "whole")
    train_until(2, config, tmp_path / "resumed")
    assert Checkpoints(tmp_path / "resumed").latest == 2
    loop.train(config, tmp_path / "resumed")
    whole, resumed = (arrays(tmp_path / name, 4) for name in ("whole", "resumed"))
    assert jax.tree.structure(whole) == jax.tree.structure(resumed)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
