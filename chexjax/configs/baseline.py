"""One network alone.

configs/baseline.py                          ResNet-18 on simulated films
configs/baseline.py:densenet121              any key of chexjax.models.NETWORKS
configs/baseline.py:densenet121-chestxray14  on the real set
"""

from ml_collections import ConfigDict

from chexjax.configs import common


def get_config(variant: str = "resnet18") -> ConfigDict:
    """See the module."""
    model, _, data = variant.partition("-")
    if data not in ("", "phantom", "chestxray14"):
        raise ValueError(f"configs/baseline.py has no data set {data!r}; there are phantom, chestxray14")
    config = common.base()
    config.networks = ConfigDict({"net1": common.network(model, seed=1)})
    return common.chestxray14(config) if data == "chestxray14" else config
