"""What a network is while it trains: parameters, batch statistics, the optimiser's memory, a step count."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from ml_collections import ConfigDict

from chexjax.errors import ConfigError
from chexjax.models import Network, create_model

PyTree = Any


class TrainState(train_state.TrainState):
    """flax's TrainState, with batch statistics and, where the config asks for it, a moving average of the weights."""

    batch_stats: PyTree
    average: PyTree | None = None
    average_decay: float = flax.struct.field(pytree_node=False, default=0.0)

    @property
    def variables(self) -> dict[str, PyTree]:
        """What evaluation applies: the moving average where one is kept, the last weights otherwise."""
        return self.average or {"params": self.params, "batch_stats": self.batch_stats}


def create_network(config: ConfigDict, name: str, num_outputs: int, axis_name: str | None = None) -> Network:
    """The network that `config.networks[name]` describes."""
    network = config.networks[name]
    return create_model(
        network.model,
        num_outputs,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name if config.sync_batch_norm else None,
        width=network.width,
    )


def create_state(config: ConfigDict, name: str, model: Network, film_shape: tuple[int, ...], steps: int) -> TrainState:
    """A new TrainState for `config.networks[name]`, from a key folded from the run's and the network's seed.

    Args:
      film_shape: (height, width, channels) of a film as the network sees it.
      steps: how many there will be in all; the learning-rate schedule ends there.
    """
    # "rbg" keys: with the default ones, XLA compiles the random draws of the 60 parameters of a ResNet-18 for 24 s.
    key = jax.random.fold_in(jax.random.key(config.seed, impl="rbg"), config.networks[name].seed)
    variables = jax.jit(model.init)(key, jnp.zeros((1, *film_shape)))
    # Copies, because two networks that shared a buffer could not both be donated to the step.
    average = jax.tree.map(jnp.copy, dict(variables)) if config.networks[name].average_decay else None
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=create_optimizer(config.networks[name], steps),
        average=average,
        average_decay=config.networks[name].average_decay,
    )


def create_schedule(network: ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up to its peak, then the decay that the config names."""
    peak, warmup = network.learning_rate, min(network.warmup_steps, max(steps - 1, 0))
    rest = max(steps - warmup, 1)
    decays: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }
    if network.schedule not in decays:
        raise ConfigError(f"no schedule is called {network.schedule!r}; there are {', '.join(decays)}")
    ramp = optax.linear_schedule(0.0, peak, warmup)
    # The ramp starts one update above zero: a first step at rate 0 would only move the batch statistics.
    return optax.join_schedules([lambda step: ramp(step + 1), decays[network.schedule]()], [warmup])


def create_optimizer(network: ConfigDict, steps: int) -> optax.GradientTransformation:
    """The update rule: clip by global norm, then SGD, Adam or AdamW. Weight decay spares vectors (norms and biases)."""
    schedule = create_schedule(network, steps)

    def matrices(params: PyTree) -> PyTree:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    rules: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(network.weight_decay, matrices),
            optax.sgd(schedule, momentum=network.momentum or None),
        ),
        "adam": lambda: optax.chain(
            optax.add_decayed_weights(network.weight_decay, matrices),
            optax.adam(schedule),
        ),
        "adamw": lambda: optax.adamw(schedule, weight_decay=network.weight_decay, mask=matrices),
    }
    if network.optimizer not in rules:
        raise ConfigError(f"no optimizer is called {network.optimizer!r}; there are {', '.join(rules)}")
    clip = optax.clip_by_global_norm(network.clip_norm) if network.clip_norm else optax.identity()
    return optax.chain(clip, rules[network.optimizer]())
