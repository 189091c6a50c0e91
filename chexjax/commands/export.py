"""A workdir's networks as one file that runs without chexjax; or one network as a torch state dict.

    python -m chexjax.export --checkpoint=WORKDIR --out=FILE [--film=1024x1024] [--network=NAME]
    python -m chexjax.export --checkpoint=WORKDIR --out=FILE.onnx --to=onnx [--network=NAME] [--int8=FILMS]
    python -m chexjax.export --checkpoint=WORKDIR --out=FILE.safetensors --to=torch [--network=NAME] [--library=timm]

The first writes StableHLO: cleaning (where the networks were trained with it), shrinking, normalisation, the networks,
sigmoid, and of several networks the mean. It takes uint8 films (any number, height, width) and gives float32
probabilities (number, findings), in the order of `findings` in FILE.json, which has the thresholds too. It runs where
jax and flatbuffers are:

    from pathlib import Path
    from jax import export
    probabilities = export.deserialize(bytearray(Path("FILE").read_bytes())).call(films)

The second writes ONNX, which does the same for films of any size, and gives their class activation maps too:

    import onnxruntime
    session = onnxruntime.InferenceSession("FILE.onnx")
    probabilities, maps = session.run(["probabilities", "maps"], {"films": films})

`maps` is float32 (number, h, w, findings). Findings and thresholds are in the file's metadata. With --int8=FILMS, a
folder of films like those to come, the networks compute in 8 bits, with ranges taken from these films.

In both, probabilities are calibrated where the run's evaluation fitted a calibration; --raw leaves them as the networks
give them.

The third gives the same logits in torch, in the network that torchvision or timm builds (--library; Hugging Face's
DINOv2 is transformers). Its metadata says which, and how films are normalised. --channels=1 keeps a grey stem.
"""

import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Final

from absl import flags

from chexjax.errors import ConfigError, command
from chexjax.runtime import parse

PLATFORMS: Final = ("cpu", "cuda", "tpu")
KINDS: Final = {".onnx": "onnx", ".safetensors": "torch"}  # what a file's name promises
TAKEN_BY: Final = {
    "film": ("stablehlo",), "platforms": ("stablehlo",), "int8": ("onnx",), "raw": ("stablehlo", "onnx"),
    "library": ("torch",), "channels": ("torch",),
}  # fmt: skip
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
    flags.DEFINE_boolean("raw", False, "StableHLO, ONNX: probabilities without calibration.", flag_values=values)
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
        raise ConfigError(f"--film is {values.film!r}; it takes HEIGHTxWIDTH, such as 1024x1024")
    if not set(values.platforms) or set(values.platforms) - set(PLATFORMS):
        raise ConfigError(f"--platforms={','.join(values.platforms)}; choose among {', '.join(PLATFORMS)}")
    out = Path(values.out)
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder, not a file")
    if (kind := KINDS.get(out.suffix.lower(), values.to)) != values.to:
        raise ConfigError(f"--out={out} is the name of another kind of file than --to={values.to}; add --to={kind}")
    for flag, kinds in TAKEN_BY.items():
        if values[flag].present and values.to not in kinds:
            raise ConfigError(f"--{flag} is for --to={' or '.join(kinds)}, not for --to={values.to}")

    from chexjax.devices import find_devices
    from chexjax.export import to_stablehlo, to_torch
    from chexjax.export.file import write, write_onnx
    from chexjax.export.networks import about, calibration_of
    from chexjax.predict.classifier import choose_network
    from chexjax.workdir.restore import restore_best

    find_devices()
    restored = restore_best(Path(values.checkpoint).expanduser())
    if values.to == "torch":
        try:
            from safetensors.numpy import save_file
        except ImportError:
            raise ConfigError("--to=torch needs safetensors; install 'chexjax[torch]'") from None
        arrays, facts = to_torch(restored, values.network, int(values.channels), values.library)
        write(out, partial(save_file, arrays, metadata=facts))
        library = json.loads(facts["library"])
        print(f"{out}: a state dict of {len(arrays)} arrays for {library}, step {restored.step} of {restored.workdir}")
        return
    if values.to == "onnx":
        write_onnx(restored, values.network, out, values.int8, values.raw)
        return
    height, width = map(int, film.groups())
    artefact = to_stablehlo(restored, (height, width), values.network, values.platforms, values.raw)
    restored = choose_network(restored, values.network)
    known = about(restored, None if values.raw else calibration_of(restored))
    known |= {"film": [height, width], "platforms": values.platforms}
    write(out, lambda path: path.write_bytes(artefact))
    write(out.with_name(f"{out.name}.json"), lambda path: path.write_text(json.dumps(known, indent=2)))
    outputs = len(restored.findings)
    print(f"{out}: {values.network}, uint8 films (any, {height}, {width}) -> probabilities (any, {outputs})")
