"""The run that is killed: a small network, trained by `loop.train` in a process of its own."""

from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from chexjax.models import NETWORKS, Architecture
from chexjax.models.resnet import BasicBlock, ResNet
from chexjax.training import loop

NETWORKS["tiny"] = Architecture(partial(ResNet, stages=(1,), block=BasicBlock), "conv1")


def train(config: dict, workdir: str) -> None:
    """The target of a process: the same command each time."""
    loop.train(ConfigDict(config), Path(workdir))
