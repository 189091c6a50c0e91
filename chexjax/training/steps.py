"""One step a regime: pure functions of (states, batch), compiled for every local device (see `devices.each_device`).

A step takes a tuple of TrainStates (one per network, in the config's order), a batch, and what the run holds fixed; it
returns the new states and what it measured. Every device holds the whole state and a share of the batch; gradients,
batch statistics and measurements are averaged over the devices.

With `config.accumulate` a network sees its share in so many equal parts, one after another (see `in_parts`). The loss
is that of the whole batch, so the update is, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from chexjax.data.augment import augment, normalize
from chexjax.data.feed import Batch, Read
from chexjax.data.mix import Mixture, draw_mixture, mix_images, mix_labels
from chexjax.devices import AXIS as AXIS
from chexjax.devices import at_precision, each_device, mean_over_devices, meet
from chexjax.models.network import Groups
from chexjax.training.objectives import (
    DIVERGENCES,
    LOSSES,
    MIXED_TARGETS,
    SOFT_TARGETS,
    binary_cross_entropy,
    is_known,
    mean_of_known,
    means_of_known,
    smooth,
)
from chexjax.training.state import TrainState, part_of

NO_STEP: Final = np.uint32(2**32 - 1)  # in the step's place in a key: what is folded from it no augmentation draws from

PyTree = Any
States = tuple[TrainState, ...]
# For each network: "loss", "divergence", "gradient_norm", "update_norm", "parameter_norm" (networks,), and (networks,
# findings) each "cross_entropy", the mean over the films of which the finding is known (0 where there is none), and
# "known", their share of the batch.
Measured = dict[str, jax.Array]
# A term that guides a network beside the labels: its logits -> a scalar.
Guide = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Teacher:
    """Networks that a student learns from: how they are applied, and what they expect of a film."""

    apply: dict[str, Callable[..., Any]]
    mean: float
    std: float


@dataclass(frozen=True)
class Context:
    """What the steps of a run know beside its config.

    `prevalence` is the share of training films with each finding, among those of which it is known, float (findings,);
    `groups` are those of the branched networks; `teacher` is there in distillation from networks alone. While `frozen`,
    heads learn alone, and the trunks predict as in evaluation, by running statistics that stay as they are.
    """

    config: ConfigDict
    prevalence: np.ndarray
    groups: Groups | None = None
    teacher: Teacher | None = None
    frozen: bool = False


class Fixed(NamedTuple):
    """What a step reads and never changes; arguments, so one compiled step serves every seed and every teacher.

    `seed` is the run's, int32; `teacher` the teacher's variables by network name, empty but in distillation;
    `targets` the soft targets of the training films where a table teaches: logits, float32 (films, findings), in the
    order of their records, NaN where there is no target.
    """

    seed: Any
    teacher: dict[str, PyTree] = {}  # noqa: RUF012
    targets: Any = None


class Supervision(NamedTuple):
    """This device's share of a batch's labels, float32 (films, findings), NaN where not known.

    `known` is of how many films each finding is known, float32 (findings,): the mean over the devices, so that what
    each divides by it averages to the mean over what is known in the whole batch.
    """

    labels: jax.Array
    known: jax.Array


Step = Callable[[States, Batch, Fixed], tuple[States, Measured]]
# (states, source, fixed, begin, count): `count` steps from step `begin` on, with the films of `source`.
Steps = Callable[[States, PyTree, Fixed, np.integer, np.integer], tuple[States, Measured]]


def supervised_step(
    states: States, batch: Batch, fixed: Fixed, context: Context
) -> tuple[States, Measured]:  # fmt: skip
    """Each network learns from the labels alone; several would learn side by side without meeting.

    Of a branched network every branch learns the mean loss of its own findings. Specialists, who share nothing, so
    move as they would in runs of their own.
    """
    batch = prepare(batch, states[0].step, fixed.seed, context.config)
    supervision = supervision_of(batch)
    learned = [
        train_step_of(
            state,
            linearize(state, batch["image"], context, dropout_key(fixed.seed, state.step, index)),
            supervision,
            index,
            context,
        )
        for index, state in enumerate(states)
    ]
    return gathered(learned)


def mutual_step(states: States, batch: Batch, fixed: Fixed, context: Context) -> tuple[States, Measured]:
    """The networks learn in turn, each from the labels and from what the others now predict.

    Zhang et al., "Deep Mutual Learning", CVPR 2018, Algorithm 1; of more than two networks each learns from the mean
    divergence to its peers (section 3.3). The labels' part is a mean over what is known; the divergence counts
    everywhere, labelled or not. With "alternating" updates, a network that has just been updated predicts again, and
    the next one learns from the new predictions; with "simultaneous", all learn from the predictions made at the start
    of the step. A network that has not been updated yet needs no second forward pass: one linearisation gives both the
    predictions its peers learn from and, later, its own backward pass. So K networks cost K forward and K backward
    passes; alternating updates cost K - 1 more forward passes (nobody reads the last network's new predictions).
    """
    mutual = context.config.mutual
    divergence = partial(DIVERGENCES[mutual.kl], temperature=mutual.temperature)
    batch = prepare(batch, states[0].step, fixed.seed, context.config)
    images, supervision = batch["image"], supervision_of(batch)
    keys = [dropout_key(fixed.seed, state.step, index) for index, state in enumerate(states)]
    runs = [linearize(state, images, context, key) for state, key in zip(states, keys, strict=True)]
    logits = [run.logits for run in runs]
    learned = []
    for index, (state, run) in enumerate(zip(states, runs, strict=True)):
        guide = divergence_to(logits[:index] + logits[index + 1 :], divergence)
        learned.append(train_step_of(state, run, supervision, index, context, guide, mutual.weight))
        if mutual.updates == "alternating" and index + 1 < len(states):
            moved = learned[-1][0]
            logits[index], _ = predict(state, moved.params, images, context, keys[index])
    return gathered(learned)


def distill_step(states: States, batch: Batch, fixed: Fixed, context: Context) -> tuple[States, Measured]:
    """The students learn from the labels and from a teacher that does not move (Hinton et al. 2015, section 2).

    The objective is (1 - weight) times the labels' part, a mean over what is known, and `weight` times the teacher's, a
    mean over all films and findings. Specialists and branches sum their groups' means of the labels' part, which
    therefore weighs more there beside the teacher's: as many times as there are groups, on average. A teacher of
    networks sees the same augmented films as the student; several teach by the mean of their softened probabilities. A
    table (`Fixed.targets`) gives a film the same target however it is augmented, and mixed films the mixture of their
    softened probabilities. Where a film and finding has no target, the label alone counts, with weight 1; with no
    target at all this is supervised training.
    """
    distill, teacher = context.config.distill, context.teacher
    batch, mixture = augmented(batch, states[0].step, fixed.seed, context.config)
    images, supervision = batch["image"], supervision_of(batch)
    soft_targets = partial(SOFT_TARGETS[distill.targets], temperature=distill.temperature)
    labels_weight: float | jax.Array = 1.0 - distill.weight
    if teacher is None:
        targets = fixed.targets[batch["film"]]
        if mixture is not None:
            targets = MIXED_TARGETS[distill.targets](targets, partial(mix_labels, mixture=mixture), distill.temperature)
        has_target = is_known(targets)
        if distill.targets == "softmax":  # which takes all of a film's findings
            has_target = jnp.broadcast_to(has_target.all(axis=-1, keepdims=True), targets.shape)
        guide = divergence_to([targets], partial(soft_targets, has_target=has_target))
        labels_weight = jnp.where(has_target, labels_weight, 1.0)
    else:
        seen = normalize(images, teacher.mean, teacher.std)
        outputs = [teach(teacher.apply[name], variables, seen, context) for name, variables in fixed.teacher.items()]
        guide = divergence_to(outputs, soft_targets)
    own = normalize(images, context.config.data.mean, context.config.data.std)
    learned = []
    for index, state in enumerate(states):
        run = linearize(state, own, context, dropout_key(fixed.seed, state.step, index))
        learned.append(train_step_of(state, run, supervision, index, context, guide, distill.weight, labels_weight))
    return gathered(learned)


# A new regime is a function above and one line here.
STEPS: Final[dict[str, Callable[..., tuple[States, Measured]]]] = {
    "supervised": supervised_step,
    "mutual": mutual_step,
    "distill": distill_step,
}


def create_step(context: Context, devices: Sequence[jax.Device] | None = None) -> Step:
    """The compiled step of the config's regime over `devices`, by default all.

    States, batch and what is fixed have a leading axis of local devices; the states given are consumed (donated).
    """
    step = at_precision(context.config.precision, partial(STEPS[context.config.regime], context=context))
    return each_device(step, out_axes=(0, None), donate_argnums=0, devices=devices)


def create_steps(context: Context, read: Read, most: int, devices: Sequence[jax.Device] | None = None) -> Steps:
    """The compiled steps of the config's regime: up to `most` in one call, without returning to the host.

    Measurements have a leading axis of `most` steps, of which the first `count` are filled. The number of
    steps is an argument: one program serves every count, so N steps in one call equal N calls of one step bit for bit.
    """
    # Compiled apart, so that it is traced once for its shapes and its use.
    step = jax.jit(at_precision(context.config.precision, partial(STEPS[context.config.regime], context=context)))

    def many(
        states: States, source: PyTree, fixed: Fixed, begin: jax.Array, count: jax.Array
    ) -> tuple[States, Measured]:  # fmt: skip
        batch = read(source, fixed.seed, begin)

        def body(k: jax.Array, carried: tuple[States, Measured]) -> tuple[States, Measured]:
            states, kept = carried
            states, measured = step(states, batch(begin + k), fixed)
            return states, jax.tree.map(lambda all_, new: all_.at[k].set(new), kept, measured)

        measured = jax.eval_shape(lambda: step(states, batch(begin), fixed)[1])
        empty = jax.tree.map(lambda one: jnp.zeros((most, *one.shape), one.dtype), measured)
        return jax.lax.fori_loop(0, count, body, (states, empty))

    return each_device(
        many, in_axes=(0, 0, 0, None, None), out_axes=(0, None), donate_argnums=0, devices=devices
    )  # fmt: skip


def compiled_together(steps: Steps) -> Steps:
    """`steps` whose first call compiles, by taking no step, and then waits for the other processes.

    Loading and compiling can take minutes longer in one process than in another that finds its program in the cache.
    The others must not wait inside the first step: collectives there time out after some seconds (see `meet`).
    """
    compiled = False

    def run(
        states: States, source: PyTree, fixed: Fixed, begin: np.integer, count: np.integer
    ) -> tuple[States, Measured]:  # fmt: skip
        nonlocal compiled
        if not compiled:
            states, _ = steps(states, source, fixed, begin, np.int32(0))
            meet("the step is compiled")
            compiled = True
        return steps(states, source, fixed, begin, count)

    return run


class Run(NamedTuple):
    """A network linearised at its present weights on one batch."""

    logits: jax.Array
    pull_back: Callable[[jax.Array], tuple[PyTree]]  # gradient of the logits -> gradient of the parameters
    collections: dict[str, PyTree]


def augmented(
    batch: Batch, step: jax.Array | int, seed: jax.Array | int, config: ConfigDict
) -> tuple[Batch, Mixture | None]:  # fmt: skip
    """The batch of the step with its films augmented, float grey levels, and films and labels mixed; and how they are.

    Where they are not mixed, that is None.
    """
    images = augment(batch["image"], batch["film"], step, seed, config.augment)
    labels = batch["label"].astype(jnp.float32)
    _, height, width, _ = images.shape
    mixture = draw_mixture(batch["film"], (height, width), step, seed, config.augment)
    if mixture is not None:
        images, labels = mix_images(images, mixture), mix_labels(labels, mixture)
    return batch | {"image": images, "label": labels}, mixture


def prepare(batch: Batch, step: jax.Array | int, seed: jax.Array | int, config: ConfigDict) -> Batch:
    """The batch of the step as the networks learn from it: augmented, then normalised."""
    batch, _ = augmented(batch, step, seed, config)
    return batch | {"image": normalize(batch["image"], config.data.mean, config.data.std)}


def dropout_key(seed: jax.Array | int, step: jax.Array | int, network: int) -> jax.Array:
    """The dropout key of the `network`-th network in a step; it differs between devices.

    It is folded from the seed, the step, the network's index and the device's, so a run resumed on as many devices
    draws the same numbers.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), NO_STEP), step)
    return jax.random.fold_in(jax.random.fold_in(key, network), jax.lax.axis_index(AXIS))


def predict(
    state: TrainState, params: PyTree, images: jax.Array, context: Context, key: jax.Array
) -> tuple[jax.Array, dict[str, PyTree]]:
    """Logits in training mode (normalised by the batch's own statistics), and the updated collections.

    Two calls with the same `key` drop the same units.
    """
    count, kept = context.config.accumulate, list(state.collections)
    variables = {"params": only_heads(params) if context.frozen else params, **state.collections}

    def apply(images: jax.Array, part: jax.Array | int) -> tuple[jax.Array, dict[str, PyTree]]:
        if context.frozen:
            return state.apply_fn(variables, images, train=False), state.collections
        drops = {"dropout": key if count == 1 else jax.random.fold_in(key, part)}
        logits, mutated = state.apply_fn(variables, images, train=True, mutable=kept, rngs=drops)
        return logits, state.collections | mutated

    return in_parts(apply, images, count)


def teach(apply: Callable[..., Any], variables: PyTree, images: jax.Array, context: Context) -> jax.Array:
    """A teacher's logits, as it predicts in evaluation."""
    return in_parts(lambda part, _: (apply(variables, part, train=False), {}), images, context.config.accumulate)[0]


def in_parts(
    function: Callable[[jax.Array, jax.Array | int], tuple[jax.Array, PyTree]], images: jax.Array, count: int
) -> tuple[jax.Array, PyTree]:
    """`function` of (films, part) for `count` equal parts of a batch, one after another.

    Of each part the backward pass keeps its films alone and runs its forward pass again, so memory holds the
    activations of one part at a time. Film k belongs to part k mod `count`, however many devices share the batch.

    Returns:
      The logits in the order of the films, and the mean of what the parts return beside them: each part's batch
      statistics are its own, and the running ones move once, by their mean. Integers are the same for every part.
    """
    if count == 1:
        return function(images, 0)
    parts = images.reshape(-1, count, *images.shape[1:]).swapaxes(0, 1)
    each = jax.checkpoint(lambda part: function(*part), prevent_cse=False)  # a loop shares no work anyway
    logits, others = jax.lax.map(each, (parts, jnp.arange(count)))
    mean = jax.tree.map(lambda x: x.mean(axis=0) if jnp.issubdtype(x.dtype, jnp.inexact) else x[0], others)
    return logits.swapaxes(0, 1).reshape(len(images), -1), mean


def only_heads(params: PyTree) -> PyTree:
    """The same parameters with gradients stopped everywhere but in the heads."""

    def stop_trunk(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf if part_of(path) == "head" else jax.lax.stop_gradient(leaf)

    return jax.tree_util.tree_map_with_path(stop_trunk, params)


def linearize(state: TrainState, images: jax.Array, context: Context, key: jax.Array) -> Run:
    """One forward pass that keeps what the backward pass needs."""
    logits, pull_back, collections = jax.vjp(
        lambda params: predict(state, params, images, context, key), state.params, has_aux=True
    )
    return Run(logits, pull_back, collections)


def divergence_to(others: Sequence[jax.Array], distance: Callable[[jax.Array, jax.Array], jax.Array]) -> Guide:
    """A guide: the mean divergence from the others' logits, held fixed, to a network's own."""
    return lambda logits: jnp.stack([distance(jax.lax.stop_gradient(other), logits) for other in others]).mean()


def supervision_of(batch: Batch) -> Supervision:
    """The batch's labels and how many of them are known, finding by finding.

    The count is an all-reduce of its own: the backward pass divides each film's gradient by it, and it depends on the
    films of the other devices. Unlike the gradients' all-reduce it overlaps with the forward pass.
    """
    labels = batch["label"]
    return Supervision(labels, mean_over_devices(is_known(labels).sum(axis=0, dtype=jnp.float32)))


def supervised_loss(
    logits: jax.Array, supervision: Supervision, index: int, context: Context, weights: jax.Array | None = None
) -> jax.Array:
    """The labels' part of the `index`-th network's objective, by `config.loss`: a scalar.

    The mean over the known labels; for a branched network, the sum of the means of its branches. `weights`
    (films, findings) multiply each label's loss; the divisor stays the number of known labels.
    """
    loss, network = context.config.loss, list(context.config.networks.values())[index]
    positives = jnp.asarray(context.prevalence, jnp.float32)
    ratio = jnp.minimum((1.0 - positives) / jnp.maximum(positives, 1e-6), loss.positive_weight_limit)
    each = LOSSES[loss.name](logits, smooth(supervision.labels, loss.label_smoothing), loss, ratio)
    if weights is not None:
        each = each * weights
    if network.shared_stages is None:
        return mean_of_known(each, supervision.known)
    assert context.groups is not None
    groups = [jnp.array(group) for group in context.groups]
    return sum((mean_of_known(each[:, group], supervision.known[group]) for group in groups), jnp.zeros(()))


def train_step_of(
    state: TrainState,
    run: Run,
    supervision: Supervision,
    index: int,
    context: Context,
    guide: Guide | None = None,
    guide_weight: float = 0.0,
    labels_weight: float | jax.Array = 1.0,
) -> tuple[TrainState, Measured]:
    """Updates a network by the gradient of labels_weight * supervised loss + guide_weight * guide.

    `labels_weight` is a number or an array (films, findings).
    """

    def objective(logits: jax.Array) -> tuple[jax.Array, Measured]:
        if isinstance(labels_weight, jax.Array):
            loss = supervised_loss(logits, supervision, index, context, labels_weight)
        else:
            loss = labels_weight * supervised_loss(logits, supervision, index, context)
        divergence = jnp.zeros(())
        if guide is not None:
            divergence = guide(logits)
            loss += guide_weight * divergence
        return loss, {
            "loss": loss,
            "cross_entropy": means_of_known(binary_cross_entropy(logits, supervision.labels), supervision.known),
            "known": supervision.known / len(supervision.labels),
            "divergence": divergence,
        }

    upstream, measured = jax.grad(objective, has_aux=True)(run.logits)
    (gradients,) = run.pull_back(upstream)
    return update(state, run, gradients, measured)


def update(state: TrainState, run: Run, gradients: PyTree, measured: Measured) -> tuple[TrainState, Measured]:
    """Averages over the devices, then updates the network (and the moving average of its weights)."""
    gradients, collections, measured = mean_over_devices((gradients, run.collections, measured))
    updates, memory = state.tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average and follow({"params": params, **collections}, state.average, 1.0 - state.average_decay)
    norms = {"gradient_norm": gradients, "update_norm": updates, "parameter_norm": params}
    state = state.replace(
        step=state.step + 1, params=params, collections=collections, opt_state=memory, average=average
    )
    return state, measured | {name: optax.tree.norm(tree) for name, tree in norms.items()}


def follow(new: PyTree, average: PyTree, share: float) -> PyTree:
    """The moving average, moved a `share` of the way to `new`; a leaf of integers (a counter) takes the new value."""

    def moved(value: jax.Array, mean: jax.Array) -> jax.Array:
        return optax.incremental_update(value, mean, share) if jnp.issubdtype(value.dtype, jnp.inexact) else value

    return jax.tree.map(moved, new, average)


def gathered(learned: Sequence[tuple[TrainState, Measured]]) -> tuple[States, Measured]:
    """The new states, and the measurements with a leading axis of networks."""
    states, measured = zip(*learned, strict=True)
    return states, jax.tree.map(lambda *values: jnp.stack(values), *measured)
