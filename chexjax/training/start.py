"""Initial weights from `config.init_from`: imported weights, or the workdir of an earlier run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from chexjax.errors import CheckpointError, ChexjaxError, first_ten
from chexjax.models import Network
from chexjax.models.configured import AnyNetwork, source_of, stem_of
from chexjax.models.network import BranchedNetwork, Groups, names
from chexjax.models.torch_weights import ABOUT, Key, fold_stem, load_weights, torch_names
from chexjax.training.logging import say
from chexjax.training.state import TrainState
from chexjax.workdir.checkpoints import check_fit
from chexjax.workdir.restore import restore_best

PyTree = Any


def start_from(
    config: ConfigDict, name: str, model: AnyNetwork, state: TrainState, film_shape: tuple[int, ...],
    findings: Sequence[str],
) -> TrainState:  # fmt: skip
    """A new `state` with the weights and statistics that `init_from` names; unchanged if it names none.

    Every array must be there and have the right shape. Arrays that were left out when the weights were imported
    (`--nohead`, `--fresh`), and a head for other findings than this run's `findings`, keep their new values, which is
    reported. The stem is converted exactly to this run's `data.mean` and `data.std`. A branched network starts from a
    whole network, copied into each branch, or from another with the same branches.

    Raises:
      CheckpointError: there are no weights, or they do not fit the network (all keys that differ are listed), or their
        branches are for other groups of the same findings.
    """
    source = source_of(config, name)
    if not source:
        return state
    try:
        variables, mean, std, theirs, missing, groups = read(Path(source).expanduser(), name)
    except ChexjaxError as error:
        raise CheckpointError(f"init_from of {name}: {error}") from error
    fresh = {"params": state.params, **state.collections}
    description = "new head" if not has_head(variables) else "head included"
    kind = config.networks[name].model
    try:
        variables = renormalize(variables, mean, std, config, kind)
    except KeyError as error:
        raise CheckpointError(f"init_from of {name}: {source} holds no {kind}: it lacks {error}") from None
    if (
        groups
        and isinstance(model, BranchedNetwork)
        and sorted(theirs) == sorted(findings)
        and list(map(set, names(groups, theirs))) != list(map(set, names(model.groups, findings)))
    ):
        raise CheckpointError(
            f"init_from of {name}: the branches of {source} are for other groups of findings than this run's; "
            "both print theirs as they begin"
        )
    if has_head(variables) and tuple(theirs) != tuple(findings):
        if sorted(theirs) == sorted(findings) and "head" in variables["params"]:
            variables = in_order(variables, [theirs.index(finding) for finding in findings])
        else:
            description = f"new head; its own predicts {first_ten(list(theirs))}"
            variables = without_head(variables, state)
    if isinstance(model, Network):
        params = {"head": state.params["head"]} | dict(variables["params"])
        variables, anew = fill({**variables, "params": params}, missing, fresh)
    elif "branch" not in variables["params"]:
        shapes = jax.eval_shape(model.whole(0).init, jax.random.key(0), jnp.zeros((1, *film_shape)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), dict(shapes))
        variables, anew = fill(variables, missing, zeros)
        variables = to_branches(model, variables, state, film_shape)
        variables = renew(variables, fresh, anew)
    else:
        anew = []
    if anew:
        description += f", drawn anew: {first_ten(['/'.join(path[1:]) for path in anew])}"
    check_fit(fresh, variables, f"{source}, from which {name} is to start,")
    say(f"{name}: starts from {source}, {description}")
    variables = jax.tree.map(jnp.array, variables)
    average = state.average and jax.tree.map(jnp.copy, variables)
    collections = {key: variables[key] for key in state.collections}
    return state.replace(params=variables["params"], collections=collections, average=average)


def read(path: Path, name: str) -> tuple[PyTree, float, float, tuple[str, ...], set[Key], Groups | None]:
    """Variables, mean and std of their films, the findings of their head, the paths of arrays left out, their groups.

    If a workdir holds several networks, the one called `name`.

    Raises:
      CheckpointError: there are none, or several and none called `name`.
    """
    if (path / ABOUT).exists():
        variables, about = load_weights(path)
        arrays = torch_names(about.model) if about.fresh else {}
        missing = {path for path, slot in arrays.items() if slot.name in about.fresh}
        return variables, about.mean, about.std, about.findings, missing, None
    best = restore_best(path)
    held = list(best.variables)
    if name not in held and len(held) > 1:
        raise CheckpointError(f"{path} holds {', '.join(held)}, and none is called {name}")
    data = best.config.data
    name = name if name in held else held[0]
    groups = getattr(best.models[name], "groups", None)
    return best.variables[name], data.mean, data.std, best.findings, set(), groups


def fill(variables: PyTree, missing: set[Key], other: PyTree) -> tuple[PyTree, list[Key]]:
    """`variables` with the arrays `missing` taken from `other`, and their paths; existing arrays stay."""
    flat, others = flatten_dict(dict(variables)), flatten_dict(dict(other))
    anew = sorted(path for path in missing - flat.keys() if path in others)
    return unflatten_dict(flat | {path: others[path] for path in anew}), anew


def renew(variables: PyTree, fresh: PyTree, anew: list[Key]) -> PyTree:
    """A branched network's variables, with the arrays `anew` (paths in a whole network) taken from `fresh`."""
    flat, new = flatten_dict(dict(variables)), flatten_dict(dict(fresh))
    shared = {(path[0], "shared", *path[2:]) for path in anew}
    names = shared | {(path[0], "branch", *path[1:]) for path in anew}
    return unflatten_dict(flat | {path: new[path] for path in names & flat.keys()})


def has_head(variables: PyTree) -> bool:
    """Whether the weights come with a head."""
    return "head" in variables["params"] or "branch" in variables["params"]


def in_order(variables: PyTree, outputs: Sequence[int]) -> PyTree:
    """`variables` with the outputs of the head reordered."""
    head = {key: np.asarray(leaf)[..., np.array(outputs)] for key, leaf in variables["params"]["head"].items()}
    return {**variables, "params": {**variables["params"], "head": head}}


def without_head(variables: PyTree, state: TrainState) -> PyTree:
    """`variables` without the head; for a branched network, with the heads of `state` if that is branched, too."""
    params = {part: tree for part, tree in variables["params"].items() if part != "head"}
    if "branch" in params and "branch" in state.params:
        params["branch"] = {**params["branch"], "head": state.params["branch"]["head"]}
    return {**variables, "params": params}


def renormalize(variables: PyTree, mean: float, std: float, config: ConfigDict, model: str) -> PyTree:
    """The same network for films normalised as in this run; its stem then always has an offset."""
    variables = jax.tree.map(np.asarray, variables)
    stem = stem_of(model, variables["params"])
    offset = stem.get("offset", np.zeros_like(stem["kernel"]))
    if (mean, std) != (config.data.mean, config.data.std):
        kernels, offsets = (x.reshape(-1, *x.shape[-4:]) for x in (stem["kernel"], offset))
        folded = [
            fold_stem(kernel, [mean], [std], config.data.mean, config.data.std, old)
            for kernel, old in zip(kernels, offsets, strict=True)
        ]
        stem["kernel"], offset = (np.stack(x).reshape(offset.shape) for x in zip(*folded, strict=True))
    stem["offset"] = offset
    return variables


def to_branches(model: Any, whole: PyTree, state: TrainState, film_shape: tuple[int, ...]) -> PyTree:
    """A branched network's variables, from those of one whole network; without a head there, the heads of `state`."""
    head = {
        "head": {"kernel": np.zeros((1, sum(map(len, model.groups)))), "bias": np.zeros(sum(map(len, model.groups)))}
    }
    filled = {**whole, "params": head | dict(whole["params"])}
    variables = model.assemble([filled] * len(model.groups), film_shape)
    if not has_head(whole):
        variables["params"]["branch"]["head"] = state.params["branch"]["head"]
    return variables
