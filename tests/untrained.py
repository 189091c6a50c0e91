"""Workdirs without a run."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from chexjax.findings import FINDINGS, SPECIALIST_GROUPS
from chexjax.models.network import by_names, names
from chexjax.training.state import create_network, create_state
from chexjax.workdir.checkpoints import Checkpoints
from chexjax.workdir.config import claim_workdir


def save_untrained(config: ConfigDict, workdir: Path) -> Path:
    """A workdir with one checkpoint of networks as they are first drawn, but for their statistics."""
    claim_workdir(workdir, config)
    shape = (config.data.size, config.data.size, 1)
    groups = by_names(SPECIALIST_GROUPS, FINDINGS)  # for those with branches
    states = {n: create_state(config, n, create_network(config, n, groups), shape, 1) for n in config.networks}
    random = np.random.default_rng(0)
    shaken = {
        name: state.replace(collections=jax.tree.map(lambda x: x + random.uniform(0, 0.5, x.shape), state.collections))
        for name, state in states.items()
    }
    checkpoints = Checkpoints(workdir, writing=True)
    checkpoints.save(1, shaken, 0.5, {"groups": names(groups, FINDINGS)})
    return workdir
