"""The state of a network in training: parameters, other collections, optimiser state, step count."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state
from ml_collections import ConfigDict

from chexjax.errors import ConfigError
from chexjax.models import BranchedNetwork
from chexjax.models.configured import AnyNetwork, create_network, first_variables
from chexjax.training.depths import depth_factors, depth_groups, scale_by_depth

__all__ = ["TrainState", "create_network", "create_optimizer", "create_schedule", "create_state"]

PyTree = Any


class TrainState(train_state.TrainState):
    """flax's TrainState with the network's other collections and, if the config asks for it, a moving average.

    `collections` holds everything beside `params`: `{"batch_stats": ...}`, others, or nothing. The moving average
    covers both.
    """

    collections: dict[str, PyTree]
    average: PyTree | None = None
    average_decay: float = flax.struct.field(pytree_node=False, default=0.0)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables for evaluation: the moving average if there is one, else the latest weights."""
        return self.average or {"params": self.params, **self.collections}


def create_state(
    config: ConfigDict, name: str, model: AnyNetwork, film_shape: tuple[int, ...], steps: int, frozen_steps: int = 0
) -> TrainState:
    """A new TrainState for `config.networks[name]`, from a key folded from the run's and the network's seed.

    Args:
      film_shape: (height, width, channels) of a film as the network sees it.
      steps: their total number, at which the learning-rate schedule ends.
      frozen_steps: the number of first steps in which the trunk is frozen.
    """
    network = config.networks[name]
    variables = first_variables(config, name, model, film_shape)
    factors = depth_factors(depth_groups(model, film_shape), network.layer_decay) if network.layer_decay < 1 else None
    rule = create_optimizer(network, steps, factors)
    if frozen_steps:
        trunk = create_optimizer(network, max(steps - frozen_steps, 1), factors)
        rule = heads_first(rule, trunk, frozen_steps)
    if isinstance(model, BranchedNetwork):
        rule = for_branches(rule)
    # Copies: two networks that share a buffer cannot both be donated to the step.
    average = jax.tree.map(jnp.copy, dict(variables)) if network.average_decay else None
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        collections={name: tree for name, tree in variables.items() if name != "params"},
        tx=rule,
        average=average,
        average_decay=network.average_decay,
    )


def for_branches(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """`rule` for the shared part and for each branch by itself.

    Each is clipped by its own norm. Weight decay treats a branch's vectors as vectors, although they are stacked.
    """
    each = optax.GradientTransformation(jax.vmap(rule.init), jax.vmap(rule.update))
    return optax.partition({"shared": rule, "branch": each}, lambda params: {part: part for part in params})


def heads_first(
    heads: optax.GradientTransformation, trunk: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """Trains heads from the start and the trunk after `steps`, each by its own rule.

    The trunk's schedule and optimiser state begin with the trunk: Adam's count must not run ahead of its moments.
    """
    rules = {"head": heads, "trunk": optax.conditionally_mask(trunk, lambda step: step >= steps)}
    return optax.partition(rules, partial(jax.tree_util.tree_map_with_path, part_of))


def part_of(path: tuple[Any, ...], leaf: Any = None) -> str:
    """Whether a parameter belongs to a "head" or a "trunk", of a whole network or of a branch."""
    return "head" if any(key.key == "head" for key in path) else "trunk"


def create_schedule(network: ConfigDict, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up to its peak, then the decay that the config names.

    A constant rate does not depend on `steps`; the warm-up of other schedules ends before they do. With `restart_steps`
    this is one cycle, and the next begins at its end: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm
    restarts", ICLR 2017, with cycles of equal length. `steps` then changes nothing.
    """
    steps = network.restart_steps or steps
    peak, warmup = network.learning_rate, network.warmup_steps
    if network.schedule != "constant" or network.restart_steps:
        warmup = min(warmup, max(steps - 1, 0))
    rest = max(steps - warmup, 1)
    decays: dict[str, Callable[[], optax.Schedule]] = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
        "onecycle": lambda: one_cycle(peak, rest),
    }
    if network.schedule not in decays:
        raise ConfigError(f"no schedule is called {network.schedule!r}; there are {', '.join(decays)}")
    ramp = optax.linear_schedule(0.0, peak, warmup)
    # The warm-up starts one update above zero: a step at rate 0 would only change the batch statistics.
    cycle = optax.join_schedules([lambda step: ramp(step + 1), decays[network.schedule]()], [warmup])
    return (lambda step: cycle(step % steps)) if network.restart_steps else cycle


def learning_rates(network: ConfigDict, step: int, steps: int, frozen_steps: int = 0) -> dict[str, float]:
    """The rates of the update that `step` makes (the first is 0): "learning_rate" of the trunk, "head_learning_rate".

    The trunk's is 0 in the first `frozen_steps`; then its schedule begins.
    """
    peak, head = network.learning_rate, network.head_learning_rate
    rate = float(create_schedule(network, steps)(step))
    trunk = rate
    if frozen_steps:
        late = create_schedule(network, max(steps - frozen_steps, 1))
        trunk = float(late(step - frozen_steps)) if step >= frozen_steps else 0.0
    return {"learning_rate": trunk, "head_learning_rate": rate * head / peak if head and peak else rate}


def one_cycle(peak: float, steps: int) -> optax.Schedule:
    """A cosine up from `peak` / 25 over the first 30 % of the steps, and one down to a 10,000th of that.

    Smith & Topin, "Super-Convergence", 2018; with the numbers and the ends of torch's OneCycleLR.
    """
    top, last = 0.3 * steps - 1.0, max(steps - 1.0, 1.0)

    def rate(step: jax.Array | int) -> jax.Array:
        up = jnp.clip(step / max(top, 1e-6), 0.0, 1.0)
        down = jnp.clip((step - top) / (last - top), 0.0, 1.0)
        low, end = peak / 25.0, peak / 25.0 / 1e4
        rising = peak + (low - peak) * (1.0 + jnp.cos(jnp.pi * up)) / 2.0
        falling = end + (peak - end) * (1.0 + jnp.cos(jnp.pi * down)) / 2.0
        return jnp.where(step <= top, rising, falling)

    return rate


def decays(path: tuple[Any, ...]) -> bool:
    """Whether weight decay acts on a parameter: a kernel, or the offset of an imported stem."""
    return path[-1].key in ("kernel", "offset")


def create_optimizer(
    network: ConfigDict, steps: int, factors: Mapping[str, float] | None = None
) -> optax.GradientTransformation:  # fmt: skip
    """The update rule: clip by global norm, then SGD, Adam or AdamW. Only kernels decay, and a stem's offset.

    Norms, biases, class tokens and position embeddings do not, as in DeiT and Swin. `factors` multiply the learning
    rates of the trunk's modules, see `depths.scale_by_depth`; None: one rate for all.
    """
    schedule = create_schedule(network, steps)

    def kernels(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: decays(path), params)

    rules: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(network.weight_decay, kernels),
            optax.sgd(schedule, momentum=network.momentum or None),
        ),
        "adam": lambda: optax.chain(
            optax.add_decayed_weights(network.weight_decay, kernels),
            optax.adam(schedule),
        ),
        "adamw": lambda: optax.adamw(schedule, weight_decay=network.weight_decay, mask=kernels),
    }
    if network.optimizer not in rules:
        raise ConfigError(f"no optimizer is called {network.optimizer!r}; there are {', '.join(rules)}")
    clip = optax.clip_by_global_norm(network.clip_norm) if network.clip_norm else optax.identity()
    rate = network.head_learning_rate
    if rate and not network.learning_rate:
        raise ConfigError(
            "a head_learning_rate is a multiple of the learning_rate, which is 0; to train heads alone, give both and "
            "add --config.freeze_trunk_epochs=N"
        )
    head = scale_head(rate / network.learning_rate) if rate else optax.identity()
    depth = [scale_by_depth(factors)] if factors else []
    return optax.chain(clip, rules[network.optimizer](), head, *depth)


def scale_head(ratio: float) -> optax.GradientTransformation:
    """Makes the head's steps `ratio` times as long, which with every rule here is a learning rate of its own."""

    def scale(updates: PyTree, params: PyTree = None) -> PyTree:
        return jax.tree_util.tree_map_with_path(lambda path, u: u * ratio if part_of(path) == "head" else u, updates)

    return optax.stateless(scale)
