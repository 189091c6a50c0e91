"""Maps against their definitions, written out plainly."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from chexjax.errors import ConfigError
from chexjax.explain import cam
from chexjax.models import Network, create_model
from chexjax.models.network import BranchedNetwork
from chexjax.models.resnet import BasicBlock, ResNet

FINDINGS = 5
FILMS = np.random.default_rng(0).normal(size=(3, 32, 48, 1)).astype(np.float32)


def trunk(**options: Any) -> ResNet:
    """Stages at strides 4 and 8."""
    return ResNet(stages=(1, 1), block=BasicBlock, width=0.125, **options)


class Pair(nn.Module):
    """Two trunks whose channels lie side by side, each with findings of its own: as specialists are."""

    def setup(self) -> None:
        self.one, self.two = trunk(), trunk()
        self.heads = [nn.Dense(2), nn.Dense(FINDINGS - 2)]

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.classify(self.features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        return jnp.concatenate([self.one(x, train), self.two(x, train)], -1)

    def classify(self, features: jax.Array) -> jax.Array:
        return self.localize(features).mean((1, 2))

    def localize(self, features: jax.Array) -> jax.Array:
        parts = jnp.split(features, 2, -1)
        return jnp.concatenate([head(part) for head, part in zip(self.heads, parts, strict=True)], -1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one trunk": lambda: Network(trunk(), FINDINGS),
    "bfloat16": lambda: Network(trunk(dtype=jnp.bfloat16), FINDINGS),
    "two trunks": Pair,
}


@pytest.fixture(scope="module")
def variables() -> dict[str, Any]:
    return {name: jax.jit(make().init)(jax.random.key(7, impl="rbg"), FILMS) for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
def test_mean_of_the_cam_is_the_logit(name: str, variables: dict[str, Any]) -> None:
    model = MODELS[name]()
    maps = cam.class_activation_map(model, variables[name], FILMS)
    assert (maps.shape, maps.dtype) == ((3, 4, 6, FINDINGS), jnp.float32)
    logits = model.apply(variables[name], FILMS)
    np.testing.assert_allclose(maps.mean((1, 2)), logits, rtol=1e-4, atol=1e-5)
    assert np.ptp(maps, axis=(1, 2)).min() > 1e-3


def test_cam_is_the_head_at_each_place(variables: dict[str, Any]) -> None:
    model, found = MODELS["one trunk"](), variables["one trunk"]
    features = np.asarray(model.apply(found, FILMS, method="features"))
    head = found["params"]["head"]
    expected = np.zeros((3, 4, 6, FINDINGS))
    for n, i, j, f in np.ndindex(expected.shape):
        expected[n, i, j, f] = features[n, i, j] @ head["kernel"][:, f] + head["bias"][f]
    np.testing.assert_allclose(cam.class_activation_map(model, found, FILMS), expected, rtol=1e-4, atol=1e-5)


def test_grad_cam_of_the_last_stage_is_the_cam(variables: dict[str, Any]) -> None:
    model, found = MODELS["one trunk"](), variables["one trunk"]
    maps = cam.class_activation_map(model, found, FILMS) - found["params"]["head"]["bias"]
    expected = np.maximum(maps / 24, 0)
    np.testing.assert_allclose(cam.grad_cam(model, found, FILMS), expected, rtol=1e-4, atol=1e-6)


class Tail(nn.Module):
    """What follows the map of stride 4 in `trunk()`."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return BasicBlock(16, stride=2, name="layer2_0")(x, False)


def derived(model: nn.Module, variables: Any, names: tuple[str, ...], combine: Any) -> np.ndarray:
    """Maps of stride 4 by one `jax.grad` a film and finding, the network cut in two by hand, and `combine`."""

    def part(trunk_name: str, kind: str) -> Any:
        return variables[kind][trunk_name]

    activations = {}
    for name in names:
        inside = {kind: part(name, kind) for kind in ("params", "batch_stats")}
        _, seen = trunk().apply(inside, FILMS, capture_intermediates=True, mutable=["intermediates"])
        activations[name] = seen["intermediates"]["layer1_0"]["__call__"][0]

    def logit(maps: dict[str, jax.Array], finding: int) -> jax.Array:
        features = [
            Tail().apply(
                {kind: {"layer2_0": part(name, kind)["layer2_0"]} for kind in ("params", "batch_stats")}, maps[name]
            )
            for name in names
        ]
        return model.apply(variables, jnp.concatenate(features, -1), method="classify")[0, finding]

    expected = np.zeros((3, 8, 12, FINDINGS))
    gradient_of = jax.jit(jax.grad(logit), static_argnums=1)
    for n in range(3):
        for f in range(FINDINGS):
            film = {name: activations[name][n : n + 1] for name in names}
            for name, gradient in gradient_of(film, f).items():
                expected[n, :, :, f] += combine(np.asarray(film[name][0]), np.asarray(gradient[0]))
    return expected


def plain_grad_cam(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    total = np.zeros(activation.shape[:2])
    for k in range(activation.shape[-1]):
        total += gradient[..., k].mean() * activation[..., k]
    return np.maximum(total, 0)


def plain_grad_cam_plus_plus(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    total = np.zeros(activation.shape[:2])
    for k in range(activation.shape[-1]):
        weight, mass = 0.0, activation[..., k].sum()
        for g in gradient[..., k].ravel().tolist():
            if g > 0 and 2 * g**2 + mass * g**3:
                weight += g**2 / (2 * g**2 + mass * g**3) * g
        total += weight * activation[..., k]
    return np.maximum(total, 0)


def plain_layer_cam(activation: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    total = np.zeros(activation.shape[:2])
    for i, j, k in np.ndindex(activation.shape):
        total[i, j] += max(gradient[i, j, k], 0) * activation[i, j, k]
    return np.maximum(total, 0)


@pytest.mark.parametrize(
    ("method", "combine"),
    [
        (cam.grad_cam, plain_grad_cam),
        (cam.grad_cam_plus_plus, plain_grad_cam_plus_plus),
        (cam.layer_cam, plain_layer_cam),
    ],
    ids=["grad_cam", "grad_cam_plus_plus", "layer_cam"],
)
@pytest.mark.parametrize(("name", "trunks"), [("one trunk", ("trunk",)), ("two trunks", ("one", "two"))])
def test_gradient_maps_of_an_earlier_stage(
    name: str, trunks: tuple[str, ...], method: Any, combine: Any, variables: dict[str, Any]
) -> None:
    model = MODELS[name]()
    expected = derived(model, variables[name], trunks, combine)
    found = method(model, variables[name], FILMS, stride=4)
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * expected.max())


@pytest.mark.parametrize(
    "model", ["resnet18", "densenet121", "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "swin_t"]
)
def test_the_last_maps_are_the_trunks_and_not_a_gates(model: str) -> None:
    """EfficientNet's gates have maps of one place, Swin's windows of 49."""
    network = create_model(model, 2)
    film = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), film)
    maps = jax.eval_shape(lambda variables, film: cam.grad_cam(network, variables, film), variables, film)
    assert maps.shape == (1, 2, 2, 2)


@pytest.mark.parametrize("shared", [False, True])
def test_branched_networks_have_the_maps_of_their_parts(shared: bool) -> None:
    begin = 1 if shared else 0
    branch = Network(ResNet(stages=(1, 1), block=BasicBlock, width=0.125, begin=begin), 3)
    whole_trunk = ResNet(stages=(1, 1), block=BasicBlock, width=0.125, end=1) if shared else None
    model = BranchedNetwork(branch, ((0, 2, 4), (1, 3)), whole_trunk)
    found = jax.jit(model.init)(jax.random.key(1, impl="rbg"), FILMS)
    logits = model.apply(found, FILMS)
    cams = cam.class_activation_map(model, found, FILMS)
    np.testing.assert_allclose(cams.mean((1, 2)), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(cam._apply_tapped(model, found, FILMS, lambda _, y: y), logits, rtol=1e-4, atol=1e-5)
    for f, (k, cell) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]):
        kernel = found["params"]["branch"]["head"]["kernel"][k, :, cell]
        channels = kernel.shape[0]
        features = model.apply(found, FILMS, method="features")[..., k * channels : (k + 1) * channels]
        expected = np.maximum(features @ kernel / 24, 0)
        np.testing.assert_allclose(cam.grad_cam(model, found, FILMS)[..., f], expected, rtol=1e-3, atol=1e-6)
    assert cam.layer_cam(model, found, FILMS, stride=4).shape == (3, 8, 12, 5)


def test_a_stage_that_there_is_not(variables: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"no map of stride 16; there are \[2, 4, 8\]"):
        cam.grad_cam(MODELS["one trunk"](), variables["one trunk"], FILMS, stride=16)


def test_input_gradient_is_the_slope(variables: dict[str, Any]) -> None:
    model, found = MODELS["one trunk"](), variables["one trunk"]
    gradient = cam.input_gradient(model, found, FILMS)
    direction = np.random.default_rng(1).normal(size=FILMS.shape).astype(np.float32)
    step = 1e-3
    ahead, behind = (model.apply(found, FILMS + sign * step * direction) for sign in (1, -1))
    slope = (np.asarray(ahead) - np.asarray(behind)) / (2 * step)
    np.testing.assert_allclose((gradient * direction).sum((1, 2)), slope, rtol=0.02, atol=0.02 * np.abs(slope).max())


def test_integrated_gradients_add_up(variables: dict[str, Any]) -> None:
    model, found = MODELS["one trunk"](), variables["one trunk"]
    baseline = np.full((1, 32, 48, 1), -2.0, np.float32)
    maps = cam.integrated_gradients(model, found, FILMS, baseline, steps=64)
    difference = np.asarray(model.apply(found, FILMS) - model.apply(found, baseline))
    assert np.abs(difference).max() > 0.1
    np.testing.assert_allclose(maps.sum((1, 2)), difference, atol=0.01 * np.abs(difference).max())


def test_equal_networks_share_one_compilation(variables: dict[str, Any]) -> None:
    cam.class_activation_map(MODELS["one trunk"](), variables["one trunk"], FILMS)
    before = cam.class_activation_map._cache_size()
    cam.class_activation_map(MODELS["one trunk"](), variables["one trunk"], FILMS + 1)
    assert cam.class_activation_map._cache_size() == before


def test_methods_work_under_a_surrounding_jit(variables: dict[str, Any]) -> None:
    model = MODELS["one trunk"]()
    inside = jax.jit(partial(cam.class_activation_map, model))(variables["one trunk"], FILMS)
    outside = cam.class_activation_map(model, variables["one trunk"], FILMS)
    np.testing.assert_allclose(inside, outside, rtol=1e-5, atol=1e-6)
