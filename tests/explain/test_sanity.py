"""Do maps follow what a network has learned? Held against random places, and against the same network unlearned.

The network learns two marks, a bright and a dark one, on simulated films: strong enough to be learned in seconds. Half
of the films have each, at random places, so that a place says nothing but where the mark is. Source of the second
check: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import binomtest, rankdata

from chexjax.data.sources.phantom import plan_films, render_film
from chexjax.evaluation.localization import judge
from chexjax.explain import cam
from chexjax.models import Network
from chexjax.models.resnet import BasicBlock, ResNet

SIDE, RADIUS, TRAINING = 64, 6, 192
MODEL = Network(ResNet(stages=(1, 1), block=BasicBlock, width=0.25), 2)  # maps of 8 x 8
KEYS = [jax.random.key(seed, impl="rbg") for seed in range(4)]

Method = Callable[..., jax.Array]
METHODS: dict[str, Method] = {
    "cam": cam.class_activation_map,
    "grad_cam": partial(cam.grad_cam, stride=8),
    "saliency": cam.saliency,
}


@pytest.fixture(scope="module")
def marked() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Films (films, 64, 64, 1), normalised; labels (films, 2); boxes (films, 2, 4) in shares of the film."""
    random = np.random.default_rng(0)
    films = np.stack([render_film(film, SIDE)[0] for film in plan_films(TRAINING + 64, seed=1)]).astype(np.float32)
    labels = random.integers(0, 2, (len(films), 2)).astype(np.float32)
    centres = random.uniform(RADIUS, SIDE - RADIUS, (len(films), 2, 2))
    x, y = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
    for film, present, cells in zip(films, labels, centres, strict=True):
        for (column, row), grey, there in zip(cells, (255, 0), present, strict=True):
            film[((x - column) ** 2 + (y - row) ** 2 < RADIUS**2) & (there > 0)] = grey
    boxes = np.concatenate([centres - RADIUS, np.full_like(centres, 2 * RADIUS)], axis=-1) / SIDE
    return ((films / 255 - 0.5) / 0.25)[..., None], labels, boxes


def draw(key: jax.Array) -> Any:
    return jax.jit(MODEL.init)(key, jnp.zeros((1, SIDE, SIDE, 1)))


@pytest.fixture(scope="module")
def trained(marked: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Any:
    films, labels, _ = marked
    rule = optax.adam(3e-3)

    @jax.jit
    def step(variables: Any, memory: Any, x: jax.Array, y: jax.Array) -> Any:
        def objective(params: Any) -> Any:
            logits, mutated = MODEL.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return optax.sigmoid_binary_cross_entropy(logits, y).mean(), mutated

        gradients, mutated = jax.grad(objective, has_aux=True)(variables["params"])
        updates, memory = rule.update(gradients, memory)
        return {"params": optax.apply_updates(variables["params"], updates), **mutated}, memory

    variables = draw(KEYS[0])
    memory = rule.init(variables["params"])
    random = np.random.default_rng(2)
    for _ in range(150):
        rows = random.choice(TRAINING, 32, replace=False)
        variables, memory = step(variables, memory, films[rows], labels[rows])
    return variables


def maps_of_marks(method: Method, variables: Any, marked: tuple[np.ndarray, ...]) -> tuple[list[Any], list[Any]]:
    """A map and a true box for each mark on the films that were not learned from."""
    films, labels, boxes = (part[TRAINING:] for part in marked)
    maps = np.asarray(method(MODEL, variables, films))
    cases = np.argwhere(labels > 0)
    return [maps[film, ..., mark] for film, mark in cases], [boxes[film, mark][None] for film, mark in cases]


def agreement(maps: list[Any], others: list[Any]) -> float:
    """The mean rank correlation (Spearman's) of maps, case by case; a flat map agrees with none."""
    found = []
    for pair in zip(maps, others, strict=True):
        ranks = [rankdata(each) for each in pair]
        found.append(np.corrcoef(ranks)[0, 1] if all(map(np.ptp, ranks)) else 0.0)
    return float(np.mean(found))


@pytest.mark.parametrize("name", METHODS)
def test_the_peak_lies_on_the_mark(name: str, trained: Any, marked: tuple[np.ndarray, ...]) -> None:
    """The pointing game, against its chance, the share of a film that a box covers, and against unlearned networks."""
    hits = judge(*maps_of_marks(METHODS[name], trained, marked)).pointing
    surely = binomtest(int(hits.sum()), len(hits)).proportion_ci(0.99).low
    assert surely > 5 * (2 * RADIUS / SIDE) ** 2
    unlearned = [judge(*maps_of_marks(METHODS[name], draw(key), marked)).pointing.mean() for key in KEYS[1:]]
    assert surely > 1.5 * np.mean(unlearned)


@pytest.mark.parametrize("name", METHODS)
def test_random_weights_destroy_the_maps(name: str, trained: Any, marked: tuple[np.ndarray, ...]) -> None:
    """The ranks of a map's places have nothing to do with those under weights drawn anew."""
    maps, _ = maps_of_marks(METHODS[name], trained, marked)
    found = [agreement(maps, maps_of_marks(METHODS[name], draw(key), marked)[0]) for key in KEYS[1:]]
    assert abs(np.mean(found)) < 0.25
    assert agreement(maps, maps) == pytest.approx(1.0)
