"""Fine-tuning from imported ImageNet weights on films of 128 px, enlarged: the best recipe for one network so far.

configs/best128.py --config.init_from=IMPORTED --config.data.dir=NIH_FOLDER     ResNet-18, films enlarged to 224 px
configs/best128.py:densenet169 ...                                              any key of chexjax.models.NETWORKS
configs/best128.py --config.regime=distill --config.teacher=TARGETS.csv ...     and from another's predictions
configs/best128.py --config.data.size=128 ...                                   films as they are: a third of the time

IMPORTED is a folder that `python -m chexjax.models.torch_weights` wrote. The films are divided by the folder's
`folds.csv`. What the recipe reaches is in BUILD-measurements.md.
"""

from ml_collections import ConfigDict

from chexjax.configs import common


def get_config(model: str = "resnet18") -> ConfigDict:
    """See the module."""
    config = common.base()
    config.networks = ConfigDict({"net1": common.network(model, seed=1)})
    config.data.update({"source": "chestxray14", "split": "folds", "size": 224})
    config.augment.update({"crop": 0.85, "flip": 0.5, "rotation": 7.0})
    config.update({"batch_size": 32, "epochs": 5.0, "eval_epochs": 0.5})
    rates = {"learning_rate": 3e-4, "warmup_steps": 50, "weight_decay": 1e-2, "average_decay": 0.99}
    config.networks.net1.update(rates)
    return config
