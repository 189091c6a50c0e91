"""Imports published weights: torchvision's, timm's and CheXNet's into ours, a colour stem into a grey one.

    python -m chexjax.models.torch_weights --model=densenet121 FILE.pth --out=DIR
    python -m chexjax.models.torch_weights --model=resnet18 --fresh='layer4.*' TO_LAYER3.safetensors --out=DIR
    python -m chexjax.predict --checkpoint=DIR FOLDER --out=OUT
    python -m chexjax.main --config=configs/baseline.py:densenet121 --config.init_from=DIR --workdir=RUN

A folder of imported weights holds `weights.npz` (an array per path, such as `params/trunk/conv1/kernel`) and
`weights.json` (the network, and how its films are normalised). With a head, it serves as a workdir wherever one is only
read: to predict, explain, export or teach.
The stem is folded into one for grey films, exactly: see `chexjax.models.torch_weights`.
"""

import sys
from pathlib import Path

from absl import flags

from chexjax.errors import ConfigError, command, printable
from chexjax.files import folder_path
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line: imports a file into a folder that `--checkpoint` and `--config.init_from` take."""
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "The network, as resnet18 or densenet121.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)
    flags.DEFINE_integer("size", 224, "The side of the films that it predicts from.", 32, flag_values=values)
    flags.DEFINE_boolean("head", True, "Keep a head with an output a finding; --nohead: none.", flag_values=values)
    flags.DEFINE_string(
        "findings", None, "A file that names the head's outputs in their order, one a line (an empty line: an output "
        "without a name), or the names with commas; by default ChestX-ray14's 14.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list(
        "fresh", [], "Patterns of arrays to leave out, for a run to draw anew, as 'layer4.*'.", flag_values=values
    )
    flags.DEFINE_string("key", "", "Which of several networks in the file, such as model_ema.", flag_values=values)
    flags.DEFINE_list(
        "source_mean",
        ["0.485", "0.456", "0.406"],
        "The means, per channel, that were subtracted from its films.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "source_std",
        ["0.229", "0.224", "0.225"],
        "The standard deviations, per channel, by which they were divided.",
        flag_values=values,
    )
    rest = parse(sys.argv, values, __doc__)
    if len(rest) != 1 or not values.out or not values.model:
        raise ConfigError(
            "usage: python -m chexjax.models.torch_weights --model=MODEL FILE --out=DIR; --help says more"
        )
    try:
        mean, std = (tuple(map(float, numbers)) for numbers in (values.source_mean, values.source_std))
    except ValueError as error:
        raise ConfigError(f"--source_mean and --source_std take numbers: {error}") from None

    from chexjax.devices import find_devices
    from chexjax.models import NETWORKS
    from chexjax.models.torch_weights import import_file, names_in

    out = folder_path(values.out, "--out")
    find_devices()
    known = [name for name, network in NETWORKS.items() if network.torch]
    if values.model not in known:
        raise ConfigError(f"--model is {printable(values.model)}; it may be {', '.join(known)}")
    named = {} if values.findings is None else {"findings": names_in(values.findings)}
    import_file(
        values.model, Path(rest[0]), out, values.size, head=values.head, source_mean=mean, source_std=std,
        fresh=values.fresh, key=values.key, **named,
    )  # fmt: skip
