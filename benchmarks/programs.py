"""The programs that `benchmarks/compiled.py` compiles, by name, lowered for devices that may be absent.

A name is `KIND:NETWORK` or `KIND:NETWORK+NETWORK`; `clean` has no network. Arguments are shapes: nothing is computed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from benchmarks.plain import create_plain
from chexjax.data.augment import normalize
from chexjax.data.feed import Resident, shuffled
from chexjax.devices import AXIS, each_device
from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models import NETWORKS as ARCHITECTURES
from chexjax.models import Architecture, create_model
from chexjax.models.network import by_names, stages_of
from chexjax.models.resnet import BasicBlock, ResNet
from chexjax.predict import Classifier
from chexjax.scanline import remove_artifacts
from chexjax.training.state import TrainState, create_network, create_optimizer, create_state
from chexjax.training.steps import Context, Fixed, Teacher, create_step, create_steps
from chexjax.workdir.restore import Restored
from configs import baseline, distill, dml, specialists

PyTree = Any

NETWORKS: Final = ("resnet18", "resnet34", "resnet50", "densenet121", "densenet169")
PAIR: Final = "resnet18+resnet50"  # the report's pair; the second is the teacher where there is one
DEFAULT: Final = (
    *(f"evaluate:{name}" for name in NETWORKS),
    "predict:resnet18",
    "predict:densenet121",
    "clean",
    *(f"supervised:{name}" for name in NETWORKS),
    f"alternating:{PAIR}",
    f"simultaneous:{PAIR}",
    f"distill:{PAIR}",
    "specialists:resnet18",
    "branches:resnet18",
    "resident:resnet18",
)
WITH_PEER: Final = ("evaluate", "supervised")  # kinds that a plain linen network does too
FILM: Final = 1024  # side of the films that `clean` takes
RESIDENT_FILMS: Final = 78_468  # the training films of ChestX-ray14's random split
TRIAL: Final = "trial"  # a network for tests: two blocks, one with stride and shortcut; can be cut into branches

ARCHITECTURES.setdefault(TRIAL, Architecture(partial(ResNet, stages=(1, 1), block=BasicBlock), "conv1"))


class Form(NamedTuple):
    """The form of a program: films a device, their side, the networks' width and dtype; plain linen or ours.

    With `sync` batch statistics are those of all devices.
    """

    batch: int
    size: int = 224
    dtype: str = "bfloat16"
    width: float = 1.0
    plain: bool = False
    sync: bool = True


def lower(name: str, form: Form, devices: list[jax.Device]) -> Any:
    """The program `name`, lowered for `devices`; `.compile()` compiles it."""
    kind, _, models = name.partition(":")
    if kind not in KINDS:
        raise ValueError(f"no program is called {name!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](models.split("+"), form, devices)


def shapes(tree: PyTree, devices: int) -> PyTree:
    """The same arrays with a leading axis of devices, as shapes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((devices, *x.shape), x.dtype), tree)


def films(form: Form) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((form.batch, form.size, form.size, 1), jnp.uint8)


def batch_of(form: Form) -> PyTree:
    """A device's share of a batch."""
    labels = jax.ShapeDtypeStruct((form.batch, len(FINDINGS)), jnp.uint8)
    return {"image": films(form), "label": labels, "film": jax.ShapeDtypeStruct((form.batch,), jnp.int32)}


def configured(config: ConfigDict, form: Form) -> ConfigDict:
    config.dtype, config.sync_batch_norm = form.dtype, form.sync
    for network in config.networks.values():
        network.width = form.width
    return config


def network_of(config: ConfigDict, name: str, form: Form, groups: Any = None, axis_name: str | None = None) -> Any:
    """The network that the config describes under `name`, ours or a plain one of the same shape."""
    if not form.plain:
        return create_network(config, name, groups, axis_name)
    axis_name = axis_name if config.sync_batch_norm else None
    return create_plain(config.networks[name].model, jnp.dtype(config.dtype), axis_name, form.width)


def variables_of(model: Any, form: Form) -> PyTree:
    film = jnp.zeros((1, form.size, form.size, 1))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), film, train=False))


# Without gradients


def evaluate(models: list[str], form: Form, devices: list[jax.Device]) -> Any:
    """A network over a batch of films, by running statistics."""
    config = configured(baseline.get_config(models[0]), form)
    model = network_of(config, "net1", form)

    def predict(variables: PyTree, images: jax.Array) -> jax.Array:
        return model.apply(variables, normalize(images, config.data.mean, config.data.std), train=False)

    arguments = shapes((variables_of(model, form), films(form)), len(devices))
    return each_device(predict, devices=devices).lower(*arguments)


def predict(models: list[str], form: Form, devices: list[jax.Device]) -> Any:
    """What `chexjax.predict` runs: probabilities and class activation maps. On one device."""
    config = configured(baseline.get_config(models[0]), form)
    config.data.size = form.size
    model = create_network(config, "net1")
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables_of(model, form))
    restored = Restored(Path(), config, 0, {"net1": model}, {"net1": variables}, {"groups": None, "history": []})
    classifier = Classifier(restored, np.full(len(FINDINGS), np.nan), batch_size=form.batch)
    return classifier._apply.lower(*on_first(({"net1": variables}, films(form)), devices))


def clean(models: list[str], form: Form, devices: list[jax.Device]) -> Any:
    """`remove_artifacts` on a batch of films of full size. On one device."""
    side = FILM if form.size == 224 else form.size
    batch = jax.ShapeDtypeStruct((form.batch, side, side), jnp.uint8)
    return jax.jit(remove_artifacts).lower(on_first(batch, devices))


def on_first(tree: PyTree, devices: list[jax.Device]) -> PyTree:
    """The shapes of arrays that lie on the first device."""
    sharding = NamedSharding(Mesh(np.array(devices[:1]), "x"), PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


# Training steps


def states_of(config: ConfigDict, form: Form, groups: Any) -> PyTree:
    """The shapes of the networks' states."""
    film_shape = (form.size, form.size, 1)

    def create() -> tuple[TrainState, ...]:
        states = []
        for name, network in config.networks.items():
            model = network_of(config, name, form, groups, AXIS)
            if form.plain:
                variables = dict(model.init(jax.random.key(0), jnp.zeros((1, *film_shape))))
                optimizer = create_optimizer(network, 10_000)
                params = variables.pop("params")
                states.append(
                    TrainState.create(apply_fn=model.apply, params=params, collections=variables, tx=optimizer)
                )
            else:
                states.append(create_state(config, name, model, film_shape, 10_000))
        return tuple(states)

    return jax.eval_shape(create)


def context_of(config: ConfigDict, form: Form) -> tuple[Context, Fixed]:
    """What a step knows; and the shapes of what it is given besides states and films."""
    groups, teacher, variables = by_names(SPECIALIST_GROUPS, FINDINGS), None, {}
    if config.regime == "distill":
        network = create_network(config, "teacher")
        variables = {"teacher": variables_of(network, form)}
        teacher = Teacher({"teacher": network.apply}, config.data.mean, config.data.std)
        config = ConfigDict({**config.to_dict(), "networks": {"net1": config.networks.net1}})
    prevalence = np.full(len(FINDINGS), 0.1)
    return Context(config, prevalence, groups, teacher), Fixed(jax.ShapeDtypeStruct((), jnp.int32), variables)


def training(config_of: Callable[[list[str]], ConfigDict]) -> Callable[..., Any]:
    """A kind of program: one step of the regime of `config_of(models)`."""

    def lower_step(models: list[str], form: Form, devices: list[jax.Device]) -> Any:
        context, fixed = context_of(configured(config_of(models), form), form)
        states = states_of(context.config, form, context.groups)
        step: Any = create_step(context, devices)
        return step.lower(*shapes((states, batch_of(form), fixed), len(devices)))

    return lower_step


def supervised(models: list[str]) -> ConfigDict:
    return baseline.get_config(models[0])


def mutual(models: list[str], updates: str) -> ConfigDict:
    config = dml.get_config(",".join(models))
    config.mutual.updates = updates
    return config


def distilled(models: list[str]) -> ConfigDict:
    """The first network learns from the second."""
    config = distill.get_config(models[0])
    config.networks.teacher = baseline.get_config(models[-1]).networks.net1
    return config


def branched(models: list[str], shared_stages: int | None = None) -> ConfigDict:
    """A network with a branch for each of the report's groups, after its last stage but one unless said otherwise."""
    config = specialists.get_config(models[0])
    stages = stages_of(create_model(models[0]).trunk)
    config.networks.net1.shared_stages = stages - 1 if shared_stages is None else shared_stages
    return config


def resident(models: list[str], form: Form, devices: list[jax.Device]) -> Any:
    """Several supervised steps in a call, with all films in the devices' memory."""
    config = configured(baseline.get_config(models[0]), form)
    context, fixed = context_of(config, form)
    count = RESIDENT_FILMS if form.size == 224 else 4 * form.batch * len(devices)
    share = -(-count // len(devices))
    kept = Resident(
        jax.ShapeDtypeStruct((share, form.size, form.size, 1), jnp.uint8),
        jax.ShapeDtypeStruct((share, len(FINDINGS)), jnp.uint8),
    )
    read = partial(shuffled, films=count, batch_size=form.batch * len(devices))
    steps: Any = create_steps(context, read, config.steps_per_call, devices)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    states = states_of(config, form, context.groups)
    return steps.lower(*shapes((states, kept, fixed), len(devices)), number, number)


# A new program is a function above and one line here.
KINDS: Final[dict[str, Callable[..., Any]]] = {
    "evaluate": evaluate,
    "predict": predict,
    "clean": clean,
    "supervised": training(supervised),
    "alternating": training(partial(mutual, updates="alternating")),
    "simultaneous": training(partial(mutual, updates="simultaneous")),
    "distill": training(distilled),
    "specialists": training(partial(branched, shared_stages=0)),
    "branches": training(branched),
    "resident": resident,
}
