"""What stands on a trunk: one dense layer for all findings, or a branch for each group of them.

Both kinds of network split in two, and whatever explains or exports them needs no more than these two halves:
`features` makes a map, and `classify` is linear in that map's spatial mean.
"""

from collections.abc import Sequence
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp

from chexjax.errors import ConfigError

ENSEMBLE: Final = "ensemble"  # what the mean of several networks' probabilities is called, in files and in flags

PyTree = Any
Groups = tuple[tuple[int, ...], ...]  # the outputs of each branch, by their place in the prediction


class Network(nn.Module):
    """A classifier: `trunk` makes a feature map, its average over the film goes through one dense layer.

    The parameters are `{"trunk": ..., "head": {"kernel", "bias"}}`. Because nothing stands between the average and
    the logits, a logit is the mean of a class activation map (Zhou et al. 2016), which `explain` relies on.
    """

    trunk: nn.Module
    num_outputs: int = 14

    def setup(self) -> None:
        # torch's default for a linear layer, U(-1/sqrt(n), 1/sqrt(n)); and logits in float32 whatever came before.
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        self.head = nn.Dense(self.num_outputs, kernel_init=uniform, dtype=jnp.float32)

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """float (batch, height, width, 1 or 3), normalised -> float32 logits (batch, num_outputs)."""
        return self.classify(self.features(x, train))

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last feature map, (batch, height / 32, width / 32, channels)."""
        return self.trunk(x, train)

    def classify(self, features: jax.Array) -> jax.Array:
        """A feature map (batch, height, width, channels) -> float32 logits: the average, then the dense layer."""
        return self.head(features.astype(jnp.float32).mean(axis=(1, 2)))


class BranchedNetwork(nn.Module):
    """A classifier with a branch for each group of findings, and a part of the trunk, or nothing, that all share.

    With no `shared` part the branches are the report's specialists (chapter 5): networks side by side. Either way the
    branches are one network whose parameters are stacked, run by `vmap`: `{"shared": ..., "branch": {"trunk", "head"}}`
    with a leading axis of branches below "branch". Heads are as wide as the largest group asks; what a smaller group
    leaves over is never looked at, so nothing is learned there.
    """

    branch: Network
    groups: Groups
    shared: nn.Module | None = None

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
        """Feature maps as `features` gives them -> float32 logits: each branch of its own channels, in usual order."""
        maps = jnp.stack(jnp.split(features, len(self.groups), axis=-1))
        logits = self._over_branches(lambda branch, x: branch.classify(x), 0)(self.branch, maps)
        columns = {output: logits[k, :, place] for k, place, output in places(self.groups)}
        return jnp.stack([columns[output] for output in sorted(columns)], axis=-1)

    def _over_branches(self, function: Any, in_axes: int | None) -> Any:
        return nn.vmap(
            function,
            in_axes=(in_axes,),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            axis_size=len(self.groups),
        )

    def whole(self, branch: int) -> Network:
        """The network that a branch would be on its own, with the trunk in one piece."""
        trunk = self.branch.trunk.clone(begin=0)
        return self.branch.clone(trunk=trunk, num_outputs=len(self.groups[branch]))

    def assemble(self, wholes: Sequence[PyTree], film_shape: tuple[int, ...]) -> PyTree:
        """This network's variables out of those of a whole network for each branch; the shared part is the first's.

        A whole network has the outputs of its group, in the group's order, or those of all groups, of which it keeps
        its own. `film_shape` is (height, width, channels).
        """
        films = jax.ShapeDtypeStruct((1, *film_shape), jnp.float32)
        shared = jax.eval_shape(self.init, jax.random.key(0), films)["params"].get("shared", {})
        outputs = sum(map(len, self.groups))
        branches = []
        for group, whole in zip(self.groups, wholes, strict=True):
            params, batch_stats = whole["params"], whole["batch_stats"]
            head = jax.tree.map(jnp.asarray, params["head"])
            if head["bias"].shape[-1] == outputs:
                head = jax.tree.map(lambda leaf, group=group: leaf[..., jnp.array(group)], head)
            unused = self.branch.num_outputs - len(group)
            head = jax.tree.map(lambda leaf, n=unused: jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, n)]), head)
            trunks = [{k: v for k, v in tree["trunk"].items() if k not in shared} for tree in (params, batch_stats)]
            branches.append({"params": {"trunk": trunks[0], "head": head}, "batch_stats": {"trunk": trunks[1]}})
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *branches)
        variables = {collection: {"branch": stacked[collection]} for collection in ("params", "batch_stats")}
        for collection in variables if shared else ():
            first = wholes[0][collection]["trunk"]
            variables[collection]["shared"] = {k: jax.tree.map(jnp.asarray, first[k]) for k in first if k in shared}
        return variables


def places(groups: Groups) -> list[tuple[int, int, int]]:
    """(branch, place in its head, output) for every output."""
    return [(k, place, output) for k, group in enumerate(groups) for place, output in enumerate(group)]


def by_names(groups: Sequence[Sequence[str]], findings: Sequence[str]) -> Groups:
    """Findings to their places in `findings`.

    Raises:
      ConfigError: a group names a finding that there is not, or not every finding is in exactly one group.
    """
    named = [finding for group in groups for finding in group]
    if unknown := [finding for finding in named if finding not in findings]:
        raise ConfigError(f"a group names {unknown[0]!r}, which is none of the findings {', '.join(findings)}")
    if wrong := [finding for finding in findings if named.count(finding) != 1]:
        raise ConfigError(f"{wrong[0]!r} is in {named.count(wrong[0])} groups; each finding belongs to one")
    return tuple(tuple(findings.index(finding) for finding in group) for group in groups)


def names(groups: Groups, findings: Sequence[str]) -> list[list[str]]:
    """Places to findings: what is printed, and saved."""
    return [[findings[output] for output in group] for group in groups]
