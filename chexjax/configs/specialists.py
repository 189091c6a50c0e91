"""Specialists: a network for each group of findings, all trained at once; or one trunk with a branch for each group.

configs/specialists.py                           four ResNet-18, the report's groups, simulated films
configs/specialists.py:resnet50                  any key of chexjax.models.NETWORKS
configs/specialists.py:resnet18-chestxray14      on the real set
configs/specialists.py --config.networks.net1.shared_stages=3     one trunk that branches after its third stage
configs/specialists.py --config.groups.by=cooccurrence            groups found by clustering the training labels
"""

from ml_collections import ConfigDict

from chexjax.configs import baseline


def get_config(variant: str = "resnet18") -> ConfigDict:
    """See the module."""
    config = baseline.get_config(variant)
    config.networks.net1.shared_stages = 0
    return config
