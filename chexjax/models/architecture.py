"""What the package must know about a network: one record each, beside the layers in the network's own file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import flax.linen as nn
import numpy as np


@dataclass(frozen=True, eq=False)
class Spelling:
    """How one library names the modules and arrays of a network in its state dicts.

    `modules` maps our modules or arrays to their dotted names where these differ; names below stay. Several names mean
    parts that are concatenated along the first axis. `former` maps the names in older files to ours, for reading only.

    `columns` are the last names of vectors that the library keeps as (channels, 1, 1), and `omitted` those of torch's
    constants that it does not save. `caution` is what a reader of such a file should know. Names that are
    `read_only` are those of older code, which nobody asks us to write.
    """

    library: str
    modules: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    former: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    omitted: tuple[str, ...] = ()
    caution: str = ""
    read_only: bool = False

    def shape_of(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Their shape of our array `name`, whose shape in torch is otherwise `shape`."""
        return (*shape, 1, 1) if name.rpartition(".")[2] in self.columns else shape

    def theirs(self, name: str) -> tuple[str, ...]:
        """Their name of our array `name`; several if it is in parts."""
        roof, rest = _roof(name, self.modules)
        theirs = self.modules.get(roof, roof)
        return tuple(f"{part}{rest}" for part in ((theirs,) if isinstance(theirs, str) else theirs))

    def ours(self, name: str) -> tuple[str, int]:
        """Our name of their array `name`, and which part of it that is."""
        roof, rest = _roof(name, self._ours)
        ours, part = self._ours.get(roof, (roof, 0))
        return f"{ours}{rest}", part

    @cached_property
    def _ours(self) -> dict[str, tuple[str, int]]:
        found = {former: (ours, 0) for former, ours in self.former.items()}
        for ours, theirs in self.modules.items():
            parts = (theirs,) if isinstance(theirs, str) else theirs
            found |= {name: (ours, part) for part, name in enumerate(parts)}
        return found


def _roof(name: str, known: Mapping[str, object]) -> tuple[str, str]:
    """The longest known prefix of a dotted name (or the name itself), and the rest."""
    roof = name
    while roof not in known:
        roof, dot, _ = roof.rpartition(".")
        if not dot:
            return name, ""
    return roof, name[len(roof) :]


@dataclass(frozen=True, eq=False)
class TorchNames:
    """How torch state dicts of the network name its arrays.

    Our own dotted name of a module of the trunk is its path with `.` for each `_`; the dense layer for the findings is
    `head`, the norm in front of it, where there is one, `norm`. `spellings` are the libraries' names; the first are
    those that are written unless another library is asked for. `anchor` is the name of an array that every network of
    the family has: whatever precedes it in a file is a wrapper's prefix.

    `constants` are arrays without weights that a torch module has beside one of ours: by our array's last name, their
    last name and their value. `derived` are such arrays that depend on the film's size: by their last name, whether an
    array is one that the network computes itself. Arrays whose names begin with one of `refused` belong to a different
    network. `foreign` are the names of arrays by which an implementation is known that computes something else, each
    with what to say of it. `resized` are arrays that may come in another shape: by our name, the function that resizes
    one, and raises ValueError if it cannot.
    """

    anchor: str
    spellings: tuple[Spelling, ...]
    constants: Mapping[str, tuple[str, np.ndarray]] = field(default_factory=dict)
    derived: Mapping[str, Callable[[np.ndarray], bool]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    foreign: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """A network: how its trunk is made, and what other modules need to know.

    `trunk(width=, axis_name=, dtype=)` is a `flax.linen` module whose `__call__(x, train)` turns films, float (batch,
    height, width, 1 or 3), into its last feature map. It may keep any collections beside `params`, or none; all of them
    are saved, restored and carried from step to step. In training it may draw from a "dropout" key. A `trunk.Trunk`
    can be cut into a shared part and branches; any other can only be branched as a whole.

    `stem` is the name of the trunk's first convolution, a `layers.Conv` or a `layers.Patches`: imported weights are
    adapted there to grey films. `torch` says how torch names the arrays; None where no torch weights are read or
    written. `norm_epsilon` is that of a layer norm between the average over the film and the dense layer; None if there
    is none. `has_map` is False if the trunk's output is one cell for the whole film, such as a class token: the
    network then has no class activation maps, and is explained by Grad-CAM.
    """

    trunk: Callable[..., nn.Module]
    stem: str
    torch: TorchNames | None = None
    norm_epsilon: float | None = None
    has_map: bool = True
