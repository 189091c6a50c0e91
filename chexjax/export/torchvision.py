"""A workdir's network as a torch state dict, under torchvision's names or another library's."""

import json

import numpy as np

from chexjax.errors import ConfigError
from chexjax.export.networks import chosen
from chexjax.models import Network
from chexjax.models.torch_names import spelling_of
from chexjax.models.torch_weights import IMAGENET_MEAN, IMAGENET_STD, to_state_dict
from chexjax.workdir.restore import Restored


def to_torch(
    restored: Restored, network: str, channels: int, library: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A state dict of one network under a library's names (None: see `to_state_dict`), and its metadata.

    Raises:
      ConfigError: several networks and none named, a network with branches, channels that it cannot have, or a library
        whose names for the network are not known.
    """
    names = chosen(restored, network)
    if len(names) > 1:
        raise ConfigError(f"a state dict holds one network; choose --network= one of {', '.join(names)}")
    (name,), data = names, restored.config.data
    if not isinstance(restored.models[name], Network):
        raise ConfigError(f"{name} of {restored.workdir} has branches, for which torch's libraries have no names")
    model = restored.config.networks[name].model
    arrays = to_state_dict(model, restored.variables[name], channels, data.mean, data.std, library)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((data.mean,), (data.std,))
    about = {
        "model": model,
        "library": spelling_of(model, library).library,
        "findings": restored.findings,
        "channels": channels,
        "size": data.size,
        "clean": data.clean,
        "mean": mean,
        "std": std,
    }
    return arrays, {key: json.dumps(value) for key, value in about.items()}
