"""From a workdir to networks that can be applied: for evaluation, prediction, a teacher, a new start, an export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from chexjax.findings import FINDINGS
from chexjax.models import Network
from chexjax.training.checkpoints import Checkpoints, Metadata, read_config
from chexjax.training.state import create_network, create_state

PyTree = Any


@dataclass(frozen=True)
class Restored:
    """The best checkpoint of a workdir.

    `config` is the one that made it, and says how films are prepared (`data.size`, `data.clean`, `data.mean`,
    `data.std`). `models` and `variables` are by network name: `models[name].apply(variables[name], x, train=False)`.
    """

    workdir: Path
    config: ConfigDict
    step: int
    models: dict[str, Network]
    variables: dict[str, PyTree]
    metadata: Metadata


def restore_best(workdir: Path) -> Restored:
    """Reads the config of `workdir` and the networks of its best checkpoint, as arrays on the host.

    Raises:
      CheckpointError: the workdir holds no whole checkpoint, or one that does not fit its config.
    """
    config = read_config(workdir)
    models = {name: create_network(config, name, len(FINDINGS)) for name in config.networks}
    shape = (config.data.size, config.data.size, 1)
    shapes = jax.eval_shape(
        lambda: {name: create_state(config, name, model, shape, 1).variables for name, model in models.items()}
    )
    with Checkpoints(workdir) as checkpoints:
        step = checkpoints.best
        return Restored(
            workdir, config, step, models, checkpoints.restore_networks(step, shapes), checkpoints.metadata(step)
        )
