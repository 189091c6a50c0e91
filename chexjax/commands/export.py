"""A workdir's networks as one file that runs without chexjax; or one network as a torch state dict.

    python -m chexjax.export --checkpoint=WORKDIR --out=FILE [--film=1024x1024] [--network=NAME]
    python -m chexjax.export --checkpoint=WORKDIR --out=FILE.onnx --to=onnx [--network=NAME] [--int8=FILMS]
    python -m chexjax.export --checkpoint=WORKDIR --out=FILE.safetensors --to=torch [--network=NAME] [--library=timm]

The first writes StableHLO: cleaning (where the networks were trained with it), shrinking, normalisation, the networks,
sigmoid, and of several networks the mean. It takes uint8 films (any number, height, width) and gives float32
probabilities (number, findings), in the order of `findings` in FILE.json. It runs where jax and flatbuffers are:

    from pathlib import Path
    from jax import export
    probabilities = export.deserialize(bytearray(Path("FILE").read_bytes())).call(films)

The second writes ONNX, which does the same for films of any size, and gives their class activation maps too:

    import onnxruntime
    session = onnxruntime.InferenceSession("FILE.onnx")
    probabilities, maps = session.run(["probabilities", "maps"], {"films": films})

`maps` is float32 (number, h, w, findings). Findings and thresholds are in the file's metadata. Probabilities are
calibrated where the run's evaluation fitted a calibration; --raw leaves them as the networks give them. With
--int8=FILMS, a folder of films like those to come, the networks compute in 8 bits, with ranges taken from these films.

The third gives the same logits in torch, in the network that torchvision or timm builds (--library; Hugging Face's
DINOv2 is transformers). Its metadata says which, and how films are normalised. --channels=1 keeps a grey stem.
"""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from absl import flags

from chexjax.errors import ConfigError, command
from chexjax.runtime import parse

PLATFORMS: Final = ("cpu", "cuda", "tpu")
LIBRARIES: Final = ("torchvision", "timm", "transformers")


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir whose best checkpoint is exported.", flag_values=values)
    flags.DEFINE_string("out", None, "The file to write.", flag_values=values)
    flags.DEFINE_enum("to", "stablehlo", ["stablehlo", "onnx", "torch"], "What to write.", flag_values=values)
    flags.DEFINE_string("network", "ensemble", "One network; by default the mean of all.", flag_values=values)
    flags.DEFINE_string("film", "1024x1024", "StableHLO: height x width of the films that go in.", flag_values=values)
    flags.DEFINE_list("platforms", [*PLATFORMS], "StableHLO: what it can run on.", flag_values=values)
    flags.DEFINE_string("int8", None, "ONNX: a folder of films to compute in 8 bits by.", flag_values=values)
    flags.DEFINE_boolean("raw", False, "ONNX: probabilities without calibration.", flag_values=values)
    flags.DEFINE_enum(
        "library", None, [*LIBRARIES], "torch: whose names; by default torchvision's.", flag_values=values
    )
    flags.DEFINE_enum("channels", "3", ["1", "3"], "torch: 3, as ImageNet's networks, or 1.", flag_values=values)
    rest = parse(sys.argv, values, __doc__)
    if rest or not values.checkpoint or not values.out:
        raise ConfigError(
            "usage: python -m chexjax.export --checkpoint=WORKDIR --out=FILE [--to=onnx|torch]; --help says more"
        )
    film = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", values.film)
    if not film:
        raise ConfigError(f"--film is {values.film!r}; it takes HEIGHTxWIDTH, as 1024x1024")
    out = Path(values.out)
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder, not a file")

    from chexjax.devices import find_devices
    from chexjax.export import chosen, to_stablehlo, to_torch
    from chexjax.export.file import write, write_onnx
    from chexjax.workdir.restore import restore_best

    find_devices()
    restored = restore_best(Path(values.checkpoint).expanduser())
    if values.to == "torch":
        try:
            from safetensors.numpy import save_file
        except ImportError:
            raise ConfigError("--to=torch needs safetensors; install 'chexjax[torch]'") from None
        arrays, about = to_torch(restored, values.network, int(values.channels), values.library)
        write(out, partial(save_file, arrays, metadata=about))
        library = json.loads(about["library"])
        print(f"{out}: a state dict of {len(arrays)} arrays for {library}, step {restored.step} of {restored.workdir}")
        return
    if values.to == "onnx":
        write_onnx(restored, values.network, out, values.int8, values.raw)
        return
    height, width = map(int, film.groups())
    artefact = to_stablehlo(restored, (height, width), values.network, values.platforms)
    known: dict[str, Any] = {
        "findings": restored.findings,
        "film": [height, width],
        "networks": chosen(restored, values.network),
    }
    known |= {"step": restored.step, "platforms": values.platforms}
    write(out, lambda path: path.write_bytes(artefact))
    write(out.with_name(f"{out.name}.json"), lambda path: path.write_text(json.dumps(known, indent=2)))
    outputs = len(restored.findings)
    print(f"{out}: {values.network}, uint8 films (any, {height}, {width}) -> probabilities (any, {outputs})")
