"""Classifiers on a trunk: one dense layer for all findings, or a branch for each group of them.

Both kinds split in two, and explaining or exporting them needs only these methods: `features` makes a map, `classify`
turns its spatial mean into logits, and `localize` says how much each cell of the map contributes to each logit.
"""

from collections.abc import Sequence
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from chexjax.errors import ConfigError
from chexjax.models.trunk import Trunk

ENSEMBLE: Final = "ensemble"  # the name, in files and flags, of the mean of several networks' probabilities

PyTree = Any
Groups = tuple[tuple[int, ...], ...]  # the outputs of each branch, as indices into the prediction


class Network(nn.Module):
    """A classifier: `trunk` makes a feature map, its average over the film goes through one dense layer.

    The parameters are `{"trunk": ..., "head": {"kernel", "bias"}}`. With `norm_epsilon`, a layer norm
    (parameters `"norm"`) precedes the dense layer. Nothing else lies between, so a logit is the mean of a class
    activation map (Zhou et al. 2016), which `explain` relies on. If `has_map` is False, the feature map is one cell for
    the whole film, and there is no such map.
    """

    trunk: nn.Module
    num_outputs: int = 14
    norm_epsilon: float | None = None
    has_map: bool = True

    def setup(self) -> None:
        if self.norm_epsilon is not None:
            self.norm = PooledNorm(self.norm_epsilon)
        # torch's default for a linear layer, U(-1/sqrt(n), 1/sqrt(n)); and logits in float32 whatever came before.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.head = nn.Dense(self.num_outputs, kernel_init=uniform, dtype=jnp.float32)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3), normalised -> float32 logits (batch, num_outputs)."""
        return self.classify(self.features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last feature map, (batch, height / 32, width / 32, channels), or of one cell; see `has_map`."""
        return self.trunk(x, train)

    def classify(self, features: jax.Array) -> jax.Array:
        """A feature map (batch, height, width, channels) -> float32 logits: the average, then the dense layer."""
        mean = features.astype(jnp.float32).mean(axis=(1, 2))
        return self.head(mean if self.norm_epsilon is None else self.norm(mean, mean))

    def localize(self, features: jax.Array) -> jax.Array:
        """A feature map -> float32 (batch, height, width, num_outputs), whose mean over the cells is the logit.

        A norm uses the scale of the film's average, so the rest is affine in each cell.
        """
        cells = features.astype(jnp.float32)
        if self.norm_epsilon is not None:
            cells = self.norm(cells, cells.mean(axis=(1, 2), keepdims=True))
        return self.head(cells)


class PooledNorm(nn.Module):
    """Layer normalisation of a film's average features (Ba et al. 2016), and of the cells behind the average.

    A cell is centred by its own mean over channels and scaled by the standard deviation of the average, so the mean of
    the normalised cells is the normalised average.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, average: jax.Array) -> jax.Array:
        """Two float32 arrays (..., channels) whose shapes broadcast."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        deviation = jax.lax.rsqrt(average.var(axis=-1, keepdims=True) + self.epsilon)
        return (x - x.mean(axis=-1, keepdims=True)) * deviation * scale + bias


class BranchedNetwork(nn.Module):
    """A classifier with a branch for each group of findings, and optionally a shared part of the trunk.

    With no `shared` part the branches are the report's specialists (chapter 5): networks side by side. Either way the
    branches are one network whose parameters are stacked, run by `vmap`: `{"shared": ..., "branch": {"trunk", "head"}}`
    with a leading axis of branches below "branch". Heads are as wide as the largest group; the surplus
    outputs of smaller groups are never read, so they do not train.
    """

    branch: Network
    groups: Groups
    shared: nn.Module | None = None

    @property
    def has_map(self) -> bool:
        """As a `Network` has it."""
        return self.branch.has_map

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3), normalised -> float32 logits (batch, outputs of all groups)."""
        return self.classify(self.features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The branches' last feature maps side by side, (batch, height / 32, width / 32, branches * channels)."""
        if self.shared is not None:
            x = self.shared(x, train)
        maps = self._over_branches(lambda branch, x: branch.features(x, train), None)(self.branch, x)
        return jnp.concatenate(list(maps), axis=-1)

    def classify(self, features: jax.Array) -> jax.Array:
        """Feature maps as `features` gives them -> float32 logits in usual order; branches read their own channels."""
        return self._of_each(lambda branch, x: branch.classify(x), features)

    def localize(self, features: jax.Array) -> jax.Array:
        """Feature maps as `features` gives them -> float32 (batch, height, width, outputs), as `Network.localize`."""
        return self._of_each(lambda branch, x: branch.localize(x), features)

    def _of_each(self, function: Any, features: jax.Array) -> jax.Array:
        """`function` of each branch and its channels; outputs in the usual order."""
        maps = jnp.stack(jnp.split(features, len(self.groups), axis=-1))
        found = self._over_branches(function, 0)(self.branch, maps)
        columns = {output: found[k, ..., column] for k, column, output in group_columns(self.groups)}
        return jnp.stack([columns[output] for output in sorted(columns)], axis=-1)

    def _over_branches(self, function: Any, in_axes: int | None) -> Any:
        return nn.vmap(
            function,
            in_axes=(in_axes,),
            variable_axes={True: 0},  # of every collection
            split_rngs={True: True},
            axis_size=len(self.groups),
        )

    def whole(self, branch: int) -> Network:
        """A branch as a network of its own, with the whole trunk."""
        trunk = self.branch.trunk if self.shared is None else self.branch.trunk.clone(begin=0)
        return self.branch.clone(trunk=trunk, num_outputs=len(self.groups[branch]))

    def assemble(self, wholes: Sequence[PyTree], film_shape: tuple[int, ...]) -> PyTree:
        """This network's variables, from those of one whole network per branch; the shared part is the first's.

        A whole network has either the outputs of its group, in that order, or all outputs, of which its group's are
        taken. `film_shape` is (height, width, channels).
        """
        films = jax.ShapeDtypeStruct((1, *film_shape), jnp.float32)
        shapes = jax.eval_shape(self.init, jax.random.key(0), films)
        shared = {module for collection in shapes.values() for module in collection.get("shared", {})}
        first, branches = flatten_dict(dict(wholes[0])), []
        outputs = sum(map(len, self.groups))
        for group, whole in zip(self.groups, wholes, strict=True):
            own = {path: leaf for path, leaf in flatten_dict(dict(whole)).items() if path[2] not in shared}
            unused = self.branch.num_outputs - len(group)
            for path in [path for path in own if path[1] == "head"]:
                leaf = jnp.asarray(own[path])
                kept = leaf[..., jnp.array(group)] if leaf.shape[-1] == outputs else leaf
                own[path] = jnp.pad(kept, [(0, 0)] * (leaf.ndim - 1) + [(0, unused)])
            branches.append(own)
        variables = {(path[0], "branch", *path[1:]): jnp.stack([own[path] for own in branches]) for path in branches[0]}
        variables |= {
            (path[0], "shared", *path[2:]): jnp.asarray(leaf) for path, leaf in first.items() if path[2] in shared
        }
        return unflatten_dict(variables)


def stages_of(trunk: nn.Module) -> int:
    """The number of stages that a trunk can be cut into; 1 if it cannot (see `Architecture`)."""
    return len(trunk.stages) if isinstance(trunk, Trunk) else 1


def group_columns(groups: Groups) -> list[tuple[int, int, int]]:
    """(branch, index in its head, output) for every output."""
    return [(k, column, output) for k, group in enumerate(groups) for column, output in enumerate(group)]


def by_names(groups: Sequence[Sequence[str]], findings: Sequence[str]) -> Groups:
    """The groups as indices into `findings`.

    Raises:
      ConfigError: a group names an unknown finding, or a finding is not in exactly one group.
    """
    named = [finding for group in groups for finding in group]
    if unknown := [finding for finding in named if finding not in findings]:
        raise ConfigError(f"a group names {unknown[0]!r}, which is none of the findings {', '.join(findings)}")
    if wrong := [finding for finding in findings if named.count(finding) != 1]:
        raise ConfigError(f"{wrong[0]!r} is in {named.count(wrong[0])} groups; each finding belongs to one")
    return tuple(tuple(findings.index(finding) for finding in group) for group in groups)


def names(groups: Groups, findings: Sequence[str]) -> list[list[str]]:
    """The groups as names, for printing and saving."""
    return [[findings[output] for output in group] for group in groups]
