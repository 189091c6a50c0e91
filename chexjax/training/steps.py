"""One step a regime: pure functions of (states, batch), compiled with `jax.pmap` over the local devices.

A step takes a tuple of TrainStates (one per network, in the config's order) and a batch, and returns the new states
and what it measured. The axis of devices is called "data"; every device holds the whole state and a share of the
batch, and gradients, batch statistics and measurements are averaged over it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from chexjax.data.augment import augment, normalize
from chexjax.training.objectives import DIVERGENCES, binary_cross_entropy
from chexjax.training.state import TrainState

AXIS: Final = "data"

PyTree = Any
States = tuple[TrainState, ...]
Batch = dict[str, jax.Array]
# For each network: "loss", "divergence", "gradient_norm" (networks,), and "cross_entropy" (networks, findings).
Measured = dict[str, jax.Array]
Step = Callable[[States, Batch], tuple[States, Measured]]


def supervised_step(states: States, batch: Batch, config: ConfigDict) -> tuple[States, Measured]:
    """Each network learns from the labels alone; several would learn side by side without meeting."""
    images = prepare(batch, states[0].step, config)
    updated, measured = [], []
    for state in states:
        run = linearize(state, images)
        loss, gradients = against_peers(run, (), batch["label"], config.mutual)
        state, loss = update(state, run, gradients, loss)
        updated.append(state)
        measured.append(loss)
    return tuple(updated), jax.tree.map(lambda *m: jnp.stack(m), *measured)


def mutual_step(states: States, batch: Batch, config: ConfigDict) -> tuple[States, Measured]:
    """The networks learn in turn, each from the labels and from what the others now predict.

    Zhang et al., "Deep Mutual Learning", CVPR 2018, Algorithm 1. With x a network that has just
    moved predicts again, and the next one learns from that; with "simultaneous" all learn from the predictions with
    which the step began. A network that has not moved yet needs no second run: one linearisation gives the
    predictions that its peers learn from and, later, its own backward pass. So K networks cost K forward and K
    backward passes, and alternating K - 1 forward passes more (the last one's new predictions have no reader).
    """
    mutual = config.mutual
    images = prepare(batch, states[0].step, config)
    runs = [linearize(state, images) for state in states]
    logits = [run.logits for run in runs]
    updated, measured = [], []
    for turn, (state, run) in enumerate(zip(states, runs, strict=True)):
        peers = logits[:turn] + logits[turn + 1 :]
        loss, gradients = against_peers(run, peers, batch["label"], mutual)
        state, loss = update(state, run, gradients, loss)
        if mutual.updates == "alternating" and turn + 1 < len(states):
            logits[turn], _ = predict(state, state.params, images)
        updated.append(state)
        measured.append(loss)
    return tuple(updated), jax.tree.map(lambda *m: jnp.stack(m), *measured)


# A new regime is a function above and one line here.
STEPS: Final[dict[str, Callable[..., tuple[States, Measured]]]] = {
    "supervised": supervised_step,
    "mutual": mutual_step,
}


def create_step(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Step:
    """The compiled step of `config.regime` over `devices`, by default all.

    States and batch have a leading axis of local devices; the states given are consumed (donated).
    """
    step = partial(STEPS[config.regime], config=config)
    return jax.pmap(step, axis_name=AXIS, donate_argnums=0, out_axes=(0, None), devices=devices)


class Run(NamedTuple):
    """A network linearised at its present weights on one batch."""

    logits: jax.Array
    pull_back: Callable[[jax.Array], tuple[PyTree]]  # gradient of the logits -> gradient of the parameters
    batch_stats: PyTree


def prepare(batch: Batch, step: jax.Array | int, config: ConfigDict) -> jax.Array:
    """The step's network input out of its stored films."""
    images = augment(batch["image"], batch["film"], step, config.seed, config.augment)
    return normalize(images, config.data.mean, config.data.std)


def predict(state: TrainState, params: PyTree, images: jax.Array) -> tuple[jax.Array, PyTree]:
    """Logits in training mode, by the batch's own statistics; and the running statistics that follow."""
    variables = {"params": params, "batch_stats": state.batch_stats}
    logits, mutated = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
    return logits, mutated["batch_stats"]


def linearize(state: TrainState, images: jax.Array) -> Run:
    """One forward pass that keeps what the backward pass needs."""
    logits, pull_back, batch_stats = jax.vjp(lambda params: predict(state, params, images), state.params, has_aux=True)
    return Run(logits, pull_back, batch_stats)


def against_peers(
    run: Run, peers: Sequence[jax.Array], labels: jax.Array, mutual: ConfigDict
) -> tuple[Measured, PyTree]:
    """The losses of a network among `peers` (their logits, held fixed), and the gradient of its parameters.

    Without peers it learns from the labels alone.
    """

    def objective(logits: jax.Array) -> tuple[jax.Array, Measured]:
        cross_entropy = binary_cross_entropy(logits, labels).mean(axis=0)
        loss, divergence = cross_entropy.mean(), jnp.zeros(())
        if peers:
            kl = partial(DIVERGENCES[mutual.kl], temperature=mutual.temperature)
            divergence = jnp.stack([kl(peer, logits) for peer in peers]).mean()
            loss += mutual.weight * divergence
        return loss, {"loss": loss, "cross_entropy": cross_entropy, "divergence": divergence}

    upstream, measured = jax.grad(objective, has_aux=True)(run.logits)
    (gradients,) = run.pull_back(upstream)
    return measured, gradients


def update(state: TrainState, run: Run, gradients: PyTree, measured: Measured) -> tuple[TrainState, Measured]:
    """Averages over the devices, then moves the network (and the moving average of its weights)."""
    gradients, batch_stats, measured = jax.lax.pmean((gradients, run.batch_stats, measured), AXIS)
    state = state.apply_gradients(grads=gradients, batch_stats=batch_stats)
    if state.average is not None:
        now = {"params": state.params, "batch_stats": batch_stats}
        state = state.replace(average=optax.incremental_update(now, state.average, 1.0 - state.average_decay))
    return state, measured | {"gradient_norm": optax.tree.norm(gradients)}
