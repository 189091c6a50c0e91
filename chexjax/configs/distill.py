"""Distillation: a student learns from the labels and from a teacher that was trained before.

configs/distill.py --config.teacher=WORKDIR              ResNet-18 on simulated films
configs/distill.py --config.teacher=FILE.csv             from the predictions of any model, joined by film name
configs/distill.py:resnet34                              any key of chexjax.models.NETWORKS
configs/distill.py:resnet18-chestxray14                  on the real set
"""

from ml_collections import ConfigDict

from chexjax.configs import baseline


def get_config(variant: str = "resnet18") -> ConfigDict:
    """See the module."""
    config = baseline.get_config(variant)
    config.regime = "distill"
    return config
