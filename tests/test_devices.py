"""Running on devices; and what is lowered for a GPU or a TPU: these programs are read, not run."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from chexjax.devices import at_precision, each_device, let_end, mean_over_devices, replicate, unreplicate
from chexjax.evaluation.evaluator import create_predictor
from chexjax.export import create_program
from chexjax.models.configured import create_network
from chexjax.predict import Classifier
from chexjax.runtime import COMPILED
from chexjax.training.state import create_state
from chexjax.training.steps import Context, Fixed, create_step
from chexjax.workdir.restore import restore_best
from tests.untrained import save_untrained

FILMS = 4


def precisions(compiled: Any, *arguments: Any) -> set[str]:
    """Of every convolution and product in the program that a GPU would get."""
    text = jax.jit(compiled).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", text)
    assert products
    found = set()
    for product in products:
        pairs = re.findall(r"precision (\w+)>|precision = \[(\w+), (\w+)\]", product)
        found |= {word for row in pairs for word in row if word} or {"DEFAULT"}
    return found


@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_a_steps_products_have_the_precision_of_the_config(small_baseline: ConfigDict, precision: str) -> None:
    """Forward, backward, and in the head."""
    small_baseline.precision = precision
    model = create_network(small_baseline, "net1")
    states = (create_state(small_baseline, "net1", model, (32, 32, 1), 10),)
    batch = {
        "image": np.zeros((1, FILMS, 32, 32, 1), np.uint8),
        "label": np.zeros((1, FILMS, 14), np.uint8),
        "film": np.zeros((1, FILMS), np.int32),
    }
    devices = jax.devices()[:1]
    step = create_step(Context(small_baseline, np.full(14, 0.1)), devices)
    found = precisions(step, replicate(states, devices), batch, replicate(Fixed(np.int32(0)), devices))
    assert found == {precision.upper()}


def test_evaluation_prediction_and_export_compute_in_float32(small_baseline: ConfigDict, tmp_path: Path) -> None:
    workdir = save_untrained(small_baseline, tmp_path / "run")
    restored = restore_best(workdir)
    films = np.zeros((1, FILMS, 32, 32, 1), np.uint8)
    applied = {name: model.apply for name, model in restored.models.items()}
    variables = jax.tree.map(lambda x: x[None], restored.variables)
    assert precisions(create_predictor(applied, 0.5, 0.25), variables, films) == {"HIGHEST"}
    classifier = Classifier.from_checkpoint(workdir)
    assert precisions(classifier._apply, classifier._variables, films[0]) == {"HIGHEST"}
    program = jax.jit(create_program(restored))
    assert precisions(program, jax.ShapeDtypeStruct((FILMS, 40, 40), jnp.uint8)) == {"HIGHEST"}


def test_a_gradient_taken_outside_has_the_precision_of_its_product() -> None:
    gradient = jax.jit(jax.grad(at_precision("highest", lambda x, y: jnp.sum(x @ y))))
    assert precisions(gradient, jnp.ones((4, 4)), jnp.ones((4, 4))) == {"HIGHEST"}


def test_the_mean_over_devices_is_that_of_numpy() -> None:
    count = jax.local_device_count()
    tree = {"a": np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3), "b": np.ones(count, np.float32)}
    found = each_device(mean_over_devices)(tree)
    for name, values in tree.items():
        for one in np.asarray(found[name]):
            np.testing.assert_allclose(one, values.mean(axis=0), rtol=1e-6)
    assert jax.tree.map(np.asarray, unreplicate(replicate({"a": np.arange(3)})))["a"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 3])
def test_a_step_whose_states_come_back_to_it_is_compiled_once(count: int) -> None:
    compiled: list[str] = []

    def note(event: str, seconds: float, **about: Any) -> None:
        if event == COMPILED:
            compiled.append(event)

    devices = jax.devices()[:count]
    first = {"a": np.arange(5, dtype=np.float32), "b": jnp.ones((2, 3)), "count": np.int32(7)}
    step = each_device(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0, devices=devices)
    states = step(replicate(first, devices))
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        states = step(states)
        assert not compiled
        jax.jit(lambda x: x - count)(1.0)
        assert compiled  # so the listener hears
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    for name, value in states.items():
        np.testing.assert_array_equal(value, np.stack([4 * np.asarray(first[name])] * count))
    np.testing.assert_array_equal(first["a"], np.arange(5))  # what a step consumes are copies
    np.testing.assert_array_equal(first["b"], np.ones((2, 3)))


def test_on_a_cpu_a_call_has_ended_before_the_next_is_made() -> None:
    results = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, x: jnp.sin(x @ x), x))(jnp.ones((300, 300)))
    let_end({"sum": results})
    assert results.is_ready()
