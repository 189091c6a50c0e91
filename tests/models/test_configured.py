"""What a network computes in, by config and processor, and how its first weights are drawn."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from chexjax.models import cpu_convolution
from chexjax.models.configured import create_network, create_variables
from chexjax.runtime import COMPILED
from chexjax.training.loop import describe


@pytest.mark.parametrize(
    ("multiplies", "dtype", "expected"),
    [(True, "bfloat16", "bfloat16"), (False, "bfloat16", "float32"), (True, "float32", "float32")],
)
def test_a_cpu_without_products_of_bfloat16_computes_in_float32_and_the_run_says_so(
    small_baseline: ConfigDict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    multiplies: bool, dtype: str, expected: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(cpu_convolution, "multiplies_bfloat16", lambda: multiplies)
    small_baseline.dtype = dtype
    model = create_network(small_baseline, "net1")
    variables = create_variables(model, 0, 1, (32, 32, 1))
    _, taken = model.apply(variables, jnp.zeros((1, 32, 32, 1)), capture_intermediates=True)
    assert taken["intermediates"]["trunk"]["__call__"][0].dtype == jnp.dtype(expected)
    describe(small_baseline, None, {}, None, None, steps=4, eval_steps=2)
    message = capsys.readouterr().out
    assert f"in {expected}, float32 products" in message
    assert ("which this CPU does not multiply: the run computes in float32" in message) == (dtype != expected)


def test_equal_networks_are_drawn_by_one_program(small_dml: ConfigDict) -> None:
    """Twins of other seeds: one compilation, other weights."""
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        compilations.extend([event] * (event == COMPILED))

    def draw(name: str) -> jax.Array:
        variables = create_variables(create_network(small_dml, name), 0, small_dml.networks[name].seed, (40, 32, 1))
        return variables["params"]["head"]["kernel"]

    jax.monitoring.register_event_duration_secs_listener(listen)
    first = draw("net1")
    assert compilations
    compilations.clear()
    second = draw("net2")
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not compilations
    assert abs(first - second).min() > 0
