"""Which array of a torch state dict is which of ours: names, shapes, and the networks that a file holds."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from chexjax.errors import CheckpointError, ConfigError, reason_of
from chexjax.models import NETWORKS, architecture_of, create_model
from chexjax.models.architecture import Spelling, TorchNames
from chexjax.models.weight_files import Tensors

Key = tuple[str, ...]  # the path of an array in a tree of variables

# Torch's last names for ours; any other is the same there.
LEAVES: Final = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
COUNT: Final = "num_batches_tracked"  # beside each running mean


@dataclass(frozen=True)
class Slot:
    """Where torch keeps an array: its name, and its shape there."""

    name: str
    shape: tuple[int, ...]


def torch_of(model: str) -> TorchNames:
    """How torch names the network's arrays.

    Raises:
      ConfigError: there is no such network, here or in torchvision.
    """
    torch = architecture_of(model).torch
    if torch is None:
        known = ", ".join(name for name, architecture in NETWORKS.items() if architecture.torch)
        raise ConfigError(f"torchvision has no network called {model!r}; torch weights are read and written of {known}")
    return torch


def spelling_of(model: str, library: str | None = None) -> Spelling:
    """The names of a library; None: of the one whose names are written unless another is asked for.

    Raises:
      ConfigError: there is no such network in torch, or its names in that library are not known.
    """
    spellings = [spelling for spelling in torch_of(model).spellings if not spelling.read_only]
    for spelling in spellings:
        if library in (None, spelling.library):
            return spelling
    known = ", ".join(spelling.library for spelling in spellings)
    raise ConfigError(f"the names of {model} in {library!r} are not known; there are {known}")


@functools.cache
def dotted_names(model: str, num_outputs: int = 14) -> dict[Key, Slot]:
    """For the path of each of the network's arrays our dotted name, and torch's shape, of a stem of three channels.

    A dotted name is the path below the trunk with `.` for each `_` in a module's name, and torch's word for the array.

    Raises:
      ConfigError: no network of torch's has that name.
    """
    torch_of(model)
    network = create_model(model, num_outputs)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    names = {}
    for path, leaf in flatten_dict(shapes).items():
        modules = path[2:-1] if path[1] == "trunk" else path[1:-1]
        words = [*(module.replace("_", ".") for module in modules), LEAVES.get(path[-1], path[-1])]
        names[path] = Slot(".".join(words), torch_shape(path, leaf.shape))
    return names


def torch_names(model: str, num_outputs: int = 14) -> dict[Key, Slot]:
    """For the path of each of the network's arrays torch's key and shape, of a stem of three channels.

    They are torchvision's, or where that has no such network timm's.

    Raises:
      ConfigError: no network of torch's has that name.
    """
    spelling = spelling_of(model)
    slots = dotted_names(model, num_outputs)
    return {
        path: Slot(spelling.theirs(slot.name)[0], spelling.shape_of(slot.name, slot.shape))
        for path, slot in slots.items()
    }


def torch_shape(path: Key, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that torch has for an array of ours."""
    return jax.eval_shape(lambda x: to_torch(path, x), jax.ShapeDtypeStruct(shape, jnp.float32)).shape


def to_torch(path: Key, array: Any) -> Any:
    """Kernels to (out, in, height, width) or (out, in); others stay as they are."""
    if path[-1] != "kernel":
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def to_jax(path: Key, array: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch`."""
    if path[-1] != "kernel":
        return array
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


# The networks of a file


@dataclass(frozen=True)
class Found:
    """One network in a file: the prefix of its keys, whose names they are, and its keys by our dotted names.

    `parts` has, for the key of an array that the file has in parts, the keys of these.
    """

    base: str
    spelling: Spelling
    names: dict[str, str]
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """How `key` names it."""
        return self.base.rstrip(".") or "."

    @property
    def averaged(self) -> bool:
        return bool(re.search(r"(^|[._-])(ema|swa|avg|averaged?|shadow|polyak)([._-]|$)", self.key.lower()))

    def theirs(self, name: str) -> str:
        """The library's name for our dotted one."""
        return " + ".join(self.spelling.theirs(name))


def find_networks(torch: TorchNames, stem: str, tensors: Tensors) -> list[Found]:
    """Every network of the family, in the order of the file. What a file has in parts is put together in `tensors`.

    A network is there once for each spelling under which its arrays are different ones of ours.

    Args:
      torch: the names of the family.
      stem: our dotted name of the first kernel.
      tensors: those of the file, by their keys.

    Raises:
      CheckpointError: two keys stand for one array.
    """
    anchors = [(spelling.theirs(torch.anchor)[0], spelling) for spelling in torch.spellings]
    found: list[tuple[str, Spelling]] = []
    for name in tensors:
        fitting = [(anchor, spelling) for anchor, spelling in anchors if f".{name}".endswith(f".{anchor}")]
        for anchor, spelling in fitting:
            base = name.removesuffix(anchor)
            # A name like 4.0.conv1 may be in any network: the stem must be there, too.
            if spelling is torch.spellings[0] or f"{base}{spelling.theirs(stem)[0]}" in tensors:
                found.append((base, spelling))
    networks: list[Found] = []
    for base, spelling in found:
        network = _network(base, spelling, tensors)
        if all((network.base, network.names) != (other.base, other.names) for other in networks):
            networks.append(network)
    return networks


def _network(base: str, spelling: Spelling, tensors: Tensors) -> Found:
    """The network whose keys begin with `base`."""
    names: dict[str, str] = {}
    pieces: dict[str, dict[int, str]] = {}
    for name in tensors:
        if not name.startswith(base) or name.endswith(COUNT):
            continue
        ours, part = spelling.ours(name.removeprefix(base))
        if len(spelling.theirs(ours)) > 1:
            pieces.setdefault(ours, {})[part] = name
        elif ours in names:
            raise CheckpointError(f"the keys {names[ours]} and {name} both stand for {spelling.theirs(ours)[0]}")
        else:
            names[ours] = name
    parts = {}
    for ours, own in pieces.items():
        if len(own) == len(spelling.theirs(ours)):
            keys = tuple(key for _, key in sorted(own.items()))
            names[ours] = " + ".join(keys)
            parts[names[ours]] = keys
            tensors[names[ours]] = np.concatenate([array_of(key, tensors[key]) for key in keys])
    return Found(base, spelling, names, parts)


def array_of(key: str, value: Any) -> np.ndarray:
    """float32, of a NumPy array or a torch tensor of any precision.

    Raises:
      CheckpointError: it holds no plain numbers.
    """
    try:
        if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16 of its own
            value = value.detach().cpu()
            value = value.float().numpy() if value.is_floating_point() else value.numpy()
        return np.array(value, np.float32)
    except (RuntimeError, TypeError, ValueError) as error:  # quantised, sparse, or without content
        raise CheckpointError(f"the key {key} holds no plain numbers: {reason_of(error)}") from None


def written(arrays: dict[str, np.ndarray], torch: TorchNames, spelling: Spelling) -> dict[str, np.ndarray]:
    """Arrays by our dotted names, under a library's, with the constants that its networks have beside them."""
    constants = {"running_mean": (COUNT, np.zeros((), np.int64)), **torch.constants}
    found: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        theirs = spelling.theirs(name)
        array = array.reshape(spelling.shape_of(name, array.shape))
        found |= dict(zip(theirs, np.split(array, len(theirs)) if len(theirs) > 1 else [array], strict=True))
        module, _, leaf = name.rpartition(".")
        if leaf in constants:
            beside, value = constants[leaf]
            if beside not in spelling.omitted:
                found |= dict.fromkeys(spelling.theirs(f"{module}.{beside}"), value)
    return found


def known_names(torch: TorchNames) -> Sequence[str]:
    """The last names of torch's constants."""
    return [COUNT, *(name for name, _ in torch.constants.values()), *torch.derived]
