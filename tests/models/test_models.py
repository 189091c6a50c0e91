"""The networks: their sizes against torchvision's, their shapes, dtypes and batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.errors import ConfigError
from chexjax.models import create_model
from chexjax.models.convolution import max_pool
from chexjax.models.layers import BatchNorm
from tests.networks import drawn, make_shallow

# What `sum(p.numel() for p in torchvision.models.NAME().parameters())` prints.
TORCHVISION = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet201": 20_013_928,
    "mobilenet_v2": 3_504_872,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b3": 12_233_232,
    "vit_base_16": 86_567_656,
    "swin_t": 28_288_354,
    "vit_small_16": 22_050_664,  # timm's
}
CLASS_TOKEN = ("vit_base_16", "vit_small_16")


@pytest.mark.parametrize("name", TORCHVISION)
def test_parameter_count_is_torchvisions(name: str) -> None:
    model = create_model(name, num_outputs=1000)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == TORCHVISION[name]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TORCHVISION)
def test_shapes_and_dtypes_in_bfloat16(name: str, channels: int) -> None:
    model = create_model(name, dtype=jnp.bfloat16)
    films = jnp.zeros((2, 224, 224, channels))
    variables = jax.eval_shape(model.init, jax.random.key(0), films)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), variables, films)
    assert (logits.shape, logits.dtype) == ((2, 14), jnp.float32)
    features = jax.eval_shape(lambda v, x: model.apply(v, x, method=model.features), variables, films)
    assert features.shape[:3] == ((2, 1, 1) if name in CLASS_TOKEN else (2, 7, 7))
    assert features.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_logit_is_the_mean_of_its_activation_map(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shallow(monkeypatch, name)
    model = create_model(name, width=0.0625)
    films = jax.random.normal(jax.random.key(1), (2, 64, 64, 1))
    variables = drawn(model, *films.shape[1:])
    features, logits = jax.jit(lambda v, x: (model.apply(v, x, method=model.features), model.apply(v, x)))(
        variables, films
    )
    head = variables["params"]["head"]
    maps = jnp.einsum("nhwc,cf->nhwf", features, head["kernel"]) + head["bias"]
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=1e-4, atol=1e-5)


def test_unknown_name_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"resnet19.*densenet169"):
        create_model("resnet19")


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4), (8, 8)])
def test_max_pool_is_the_windowed_maximum_and_so_is_its_gradient(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)

    def windowed(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0))
        )

    np.testing.assert_array_equal(max_pool(x), windowed(x))
    weights = np.random.default_rng(1).normal(size=max_pool(x).shape)
    gradients = [jax.jit(jax.grad(lambda x, pool=pool: (pool(x) * weights).sum()))(x) for pool in (max_pool, windowed)]
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_batch_norm_follows_torch() -> None:
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(4, 3, 5, 2))
    layer = BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=True)
    y, mutated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 2)
    np.testing.assert_allclose(y, (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), rtol=1e-4, atol=1e-5)
    # momentum 0.1 towards the batch's mean and its UNBIASED variance
    np.testing.assert_allclose(mutated["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(mutated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    still = layer.apply(variables, x, train=False)
    np.testing.assert_allclose(still, x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_batch_norm_over_devices_is_that_of_the_whole_batch() -> None:
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 3, 5)).astype(np.float32)
    alone, shared = BatchNorm(), BatchNorm(axis_name="data")
    variables = alone.init(jax.random.key(0), x[0], train=True)
    y, mutated = alone.apply(variables, x.reshape(8, 3, 3, 5), train=True, mutable=["batch_stats"])
    split_y, split_mutated = jax.pmap(
        lambda x: shared.apply(variables, x, train=True, mutable=["batch_stats"]), axis_name="data"
    )(x)
    np.testing.assert_allclose(split_y.reshape(y.shape), y, rtol=1e-4, atol=1e-5)
    for leaf, whole in zip(jax.tree.leaves(split_mutated), jax.tree.leaves(mutated), strict=True):
        np.testing.assert_allclose(leaf, np.broadcast_to(whole, leaf.shape), rtol=1e-5)
