"""Deep Mutual Learning: two networks learn together, in turn.

configs/dml.py                    two ResNet-18 on simulated films, minutes on a laptop
configs/dml.py:chestxray14        ResNet-18 with ResNet-50 on the real set, the report's pair
configs/dml.py:chestxray14-twins  two ResNet-18 on the real set, the report's twins
configs/dml.py:resnet18,resnet18,densenet121               a cohort of any networks, simulated films
configs/dml.py:resnet18,resnet18,densenet121-chestxray14   the same on the real set
"""

from ml_collections import ConfigDict

from chexjax.configs import common


def get_config(variant: str = "phantom") -> ConfigDict:
    """See the module."""
    config = common.base()
    config.regime = "mutual"
    models, _, data = {
        "phantom": "resnet18,resnet18",
        # The cheaper network first: in the alternating step the first one's forward pass is run twice.
        "chestxray14": "resnet18,resnet50-chestxray14",
        "chestxray14-twins": "resnet18,resnet18-chestxray14",
    }.get(variant, variant).partition("-")
    names = models.split(",")
    if len(names) < 2 or data not in ("", "phantom", "chestxray14"):
        raise ValueError(
            f"configs/dml.py has no variant {variant!r}; there are phantom, chestxray14, chestxray14-twins, and "
            "MODEL,MODEL,... with -chestxray14 behind it or without"
        )
    config.networks = ConfigDict({f"net{k}": common.network(model, seed=k) for k, model in enumerate(names, start=1)})
    return common.chestxray14(config) if data == "chestxray14" else config
