"""Deep Mutual Learning: two networks learn together, in turn.

configs/dml.py                    two ResNet-18 on simulated films, minutes on a laptop
configs/dml.py:chestxray14        ResNet-18 with ResNet-50 on the real set, the report's pair
configs/dml.py:chestxray14-twins  two ResNet-18 on the real set, the report's twins
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "phantom") -> ConfigDict:
    """See the module."""
    config = common.base()
    config.regime = "mutual"
    models = {
        "phantom": ("resnet18", "resnet18"),
        # The cheaper network first: in the alternating step the first one's forward pass is run twice.
        "chestxray14": ("resnet18", "resnet50"),
        "chestxray14-twins": ("resnet18", "resnet18"),
    }
    if variant not in models:
        raise ValueError(f"configs/dml.py has no variant {variant!r}; there are {', '.join(models)}")
    config.networks = ConfigDict(
        {f"net{k}": common.network(model, seed=k) for k, model in enumerate(models[variant], start=1)}
    )
    return config if variant == "phantom" else common.chestxray14(config)
