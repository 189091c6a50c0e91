"""What the package must know about a network: one record each, beside the layers in the network's own file."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn


@dataclass(frozen=True)
class TorchNames:
    """How a torch state dict of the network names its arrays.

    A module's name there is ours with `.` for each `_`, after `trunk` ("features." or nothing). The dense layer for the
    findings is called `head`; the norm in front of it, where there is one, `norm`. `anchor` is a key that every network
    of the family has: whatever stands before it in a file is a wrapper's prefix.
    """

    head: str
    anchor: str
    trunk: str = ""
    norm: str = ""


@dataclass(frozen=True)
class Architecture:
    """A network: how its trunk is made, and what other modules ask about it.

    `trunk(width=, axis_name=, dtype=)` is a `flax.linen` module whose `__call__(x, train)` turns films, float (batch,
    height, width, 1 or 3), into its last feature map. It may keep any collections beside `params`, or none; all of them
    are saved, restored and carried from step to step. In training it may draw from a "dropout" key. A trunk that has
    the fields `stages`, `begin` and `end`, and builds only the stages between them, can be cut into a shared part and
    branches; any other can only be branched as a whole.

    `stem` is the name of the trunk's first convolution, a `layers.Conv` or a `layers.Patches`: imported weights are
    adapted there to grey films. `torch` says how torch names the arrays; None where no torch weights are read or
    written. `norm_epsilon` is that of a layer norm between the average over the film and the dense layer; None where
    there is none.
    """

    trunk: Callable[..., nn.Module]
    stem: str
    torch: TorchNames | None = None
    norm_epsilon: float | None = None
