"""The networks that an export holds, as one function from small films to probabilities and maps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from chexjax.data.augment import normalize
from chexjax.explain.maps import average_maps
from chexjax.models import Network
from chexjax.models.configured import AnyNetwork
from chexjax.models.network import group_columns
from chexjax.predict.classifier import choose_network, judged_as, read_thresholds
from chexjax.trust.calibration import Calibration
from chexjax.trust.kept import read_trust
from chexjax.workdir.restore import Restored

PyTree = Any


def chosen(restored: Restored, network: str) -> list[str]:
    """The names of the chosen networks: all of them for "ensemble".

    Raises:
      ConfigError: no network has that name.
    """
    return list(choose_network(restored, network).models)


def calibration_of(restored: Restored) -> Calibration | None:
    """The calibration of the single network, or of the ensemble of several; None if there is none.

    Raises:
      CheckpointError: the workdir's calibration is broken.
    """
    return read_trust(restored).calibrations.get(judged_as(restored))


def about(restored: Restored, calibration: Calibration | None) -> dict[str, Any]:
    """The metadata: findings in order, their thresholds (null if unknown), and the checkpoint."""
    thresholds = read_thresholds(restored)
    if calibration is not None:
        thresholds = calibration.apply(thresholds)
    return {
        "findings": list(restored.findings),
        "thresholds": [None if np.isnan(threshold) else float(threshold) for threshold in thresholds],
        "calibrated": calibration is not None,
        "networks": list(restored.models),
        "step": restored.step,
        "size": restored.config.data.size,
        "clean": restored.config.data.clean,
    }


def have_maps(restored: Restored) -> bool:
    """Whether all networks have a class activation map; a ViT with a class token has none."""
    return all(model.has_map for model in restored.models.values())


def create_explainer(restored: Restored) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
    """The computation of `Classifier` on films that are already cleaned and shrunk, all in float32.

    Returns:
      A function of uint8 (batch, size, size) -> float32 logits (networks, batch, findings) and class activation maps
      (batch, h, w, findings), those of several networks averaged; logits alone where a network has no such map.
    """
    data = restored.config.data
    networks = [(in_float32(model), restored.variables[name]) for name, model in restored.models.items()]

    def explain(films: jax.Array) -> tuple[jax.Array, ...]:
        x = normalize(films[..., None], data.mean, data.std)
        logits, maps = zip(*(logits_and_maps(model, own, x) for model, own in networks), strict=True)
        return (jnp.stack(logits), average_maps(maps)) if have_maps(restored) else (jnp.stack(logits),)

    return explain


def logits_and_maps(model: AnyNetwork, variables: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits (batch, findings) and class activation maps (batch, h, w, findings); branches run one after another."""
    if isinstance(model, Network):
        features: Any = model.apply(variables, x, method="features")
        logits: Any = model.apply(variables, features, method="classify")
        maps: Any = model.apply(variables, features, method="localize")
        return logits, maps

    def part(name: str) -> PyTree:
        return {kind: tree[name] for kind, tree in variables.items() if name in tree}

    if model.shared is not None:
        shared: Any = model.shared.apply(part("shared"), x)
        x = shared
    found = [
        logits_and_maps(model.branch, jax.tree.map(lambda leaf, k=k: leaf[k], part("branch")), x)
        for k in range(len(model.groups))
    ]
    columns = sorted((output, k, column) for k, column, output in group_columns(model.groups))
    logits, maps = (
        jnp.concatenate(
            [jax.lax.slice_in_dim(found[k][result], column, column + 1, axis=-1) for _, k, column in columns], axis=-1
        )
        for result in (0, 1)
    )
    return logits, maps


def in_float32(model: AnyNetwork) -> AnyNetwork:
    """The same network in float32, whatever it was trained in."""
    if isinstance(model, Network):
        return model.clone(trunk=model.trunk.clone(dtype=jnp.float32))
    shared = model.shared and model.shared.clone(dtype=jnp.float32)
    return model.clone(branch=in_float32(model.branch), shared=shared)
