"""A workdir's networks as one file that runs without chexjax; or as a torchvision state dict.

    python -m chexjax.export --checkpoint=WORKDIR --out=FILE [--film=1024x1024] [--network=NAME]
    python -m chexjax.export --checkpoint=WORKDIR --out=FILE.safetensors --to=torch [--network=NAME] [--channels=1]

The first writes StableHLO: cleaning (where the networks were trained with it), shrinking, normalisation, the networks,
sigmoid, and of several networks the mean. It takes uint8 films (any number, height, width) and gives float32
probabilities (number, findings), in the order of `findings` in FILE.json. It runs where jax and flatbuffers are:

    from pathlib import Path
    from jax import export
    probabilities = export.deserialize(bytearray(Path("FILE").read_bytes())).call(films)

The second gives the same logits in torch; how it wants its films stands in the file's metadata.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import export

from chexjax.data.augment import normalize
from chexjax.data.recipe import recipe_of
from chexjax.devices import at_precision, find_devices
from chexjax.errors import CheckpointError, ConfigError, command
from chexjax.files import whole
from chexjax.models import Network
from chexjax.models.network import ENSEMBLE
from chexjax.models.torch_weights import IMAGENET_MEAN, IMAGENET_STD, to_state_dict
from chexjax.runtime import parse
from chexjax.scanline import remove_artifacts
from chexjax.workdir.restore import Restored, restore_best

PLATFORMS: Final = ("cpu", "cuda", "tpu")
PRECISION: Final = 22  # bits behind the point in Pillow's coefficients of 8-bit images


def create_program(restored: Restored, network: str = ENSEMBLE) -> Callable[[jax.Array], jax.Array]:
    """From films to probabilities, as one jittable function of what `restored` holds.

    Args:
      restored: the networks, and the config that says how their films are prepared.
      network: one of them by name; "ensemble" is the mean of the probabilities of all.

    Returns:
      A function of uint8 (batch, height, width) -> float32 (batch, findings).

    Raises:
      ConfigError: no network has that name.
    """
    names = chosen(restored, network)
    data = restored.config.data
    recipe = recipe_of(data)

    def prepare(film: jax.Array) -> jax.Array:
        """One film at a time: the cleaning needs to know its shapes, and the number of films is left open."""
        if recipe.clean:
            film = remove_artifacts(film, **recipe.cleaning)
        return shrink(film, recipe.size, recipe.enlarge)

    def program(films: jax.Array) -> jax.Array:
        x = normalize(jax.lax.map(prepare, films)[..., None], data.mean, data.std)
        # As arrays of JAX: a NumPy one that a branch's rule meets as a constant cannot be lowered.
        variables = {name: jax.tree.map(jnp.asarray, restored.variables[name]) for name in names}
        logits: list[Any] = [restored.models[name].apply(variables[name], x) for name in names]
        return jnp.stack([jax.nn.sigmoid(each) for each in logits]).mean(axis=0)

    return at_precision("highest", program)


def chosen(restored: Restored, network: str) -> list[str]:
    """The names of the networks meant: all for "ensemble".

    Raises:
      ConfigError: no network has that name.
    """
    if network == ENSEMBLE:
        return list(restored.models)
    if network not in restored.models:
        raise ConfigError(
            f"{restored.workdir} has no network {network!r}; there are {', '.join([*restored.models, ENSEMBLE])}"
        )
    return [network]


def shrink(film: jax.Array, size: int, enlarge: str = "bicubic") -> jax.Array:
    """uint8 (height, width) -> uint8 (size, size): `data.recipe.shrink`, which is Pillow's filters, bit for bit.

    Pillow filters along the rows, rounds to 8 bits, then filters along the columns, with coefficients of 22 binary
    places (`src/libImaging/Resample.c`).
    """
    return _resample(_resample(film, size, enlarge).T, size, enlarge).T


def _resample(film: jax.Array, size: int, enlarge: str) -> jax.Array:
    """Along the rows: (height, width) -> (height, size)."""
    if film.shape[1] == size:
        return film
    kernel = enlarge if film.shape[1] < size else "area"
    first, coefficients = pillow_coefficients(film.shape[1], size, kernel)
    total = jnp.full((film.shape[0], size), 1 << (PRECISION - 1), jnp.int32)
    for tap, coefficient in enumerate(coefficients.T):
        columns = np.minimum(first + tap, film.shape[1] - 1)
        total += film[:, columns].astype(jnp.int32) * jnp.asarray(coefficient)
    return jnp.clip(total >> PRECISION, 0, 255).astype(jnp.uint8)


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_KERNELS: Final = {"area": (_box, 0.5), "bicubic": (_cubic, 2.0)}  # each with its reach, in pixels of the coarser grid


def pillow_coefficients(width: int, size: int, kernel: str) -> tuple[np.ndarray, np.ndarray]:
    """Of a Pillow filter for each of `size` outputs the first input, (size,), and coefficients, (size, taps).

    `kernel` is "area", Pillow's BOX, or "bicubic".
    """
    weigh, reach = _KERNELS[kernel]
    scale = width / size
    support = reach * max(scale, 1.0)
    centres = (np.arange(size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), width)
    taps = np.arange((last - first).max())
    offsets = (first[:, None] + taps - centres[:, None] + 0.5) / max(scale, 1.0)
    weights = np.where(first[:, None] + taps < last[:, None], weigh(offsets), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return first, (np.copysign(0.5, weights) + weights * (1 << PRECISION)).astype(np.int32)


def to_stablehlo(
    restored: Restored, film: tuple[int, int], network: str = ENSEMBLE, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """The serialised artefact of `create_program`, for any number of films of height and width `film`."""
    (batch,) = export.symbolic_shape("batch")
    films = jax.ShapeDtypeStruct((batch, *film), jnp.uint8)
    program = jax.jit(create_program(restored, network))
    return bytes(export.export(program, platforms=platforms)(films).serialize())


def to_torch(restored: Restored, network: str, channels: int) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """A torchvision state dict of one network, and what is to be known about it.

    Raises:
      ConfigError: several networks and none named, a network with branches, channels that it cannot have.
    """
    names = chosen(restored, network)
    if len(names) > 1:
        raise ConfigError(f"a state dict holds one network; choose --network= one of {', '.join(names)}")
    (name,), data = names, restored.config.data
    if not isinstance(restored.models[name], Network):
        raise ConfigError(f"{name} of {restored.workdir} has branches, for which torchvision has no names")
    model = restored.config.networks[name].model
    arrays = to_state_dict(model, restored.variables[name], channels, data.mean, data.std)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((data.mean,), (data.std,))
    about = {
        "model": model,
        "findings": restored.findings,
        "channels": channels,
        "size": data.size,
        "clean": data.clean,
        "mean": mean,
        "std": std,
    }
    return arrays, {key: json.dumps(value) for key, value in about.items()}


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Writes a file whole or not at all.

    Raises:
      CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial_path:
            save(partial_path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from None


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir whose best checkpoint is exported.", flag_values=values)
    flags.DEFINE_string("out", None, "The file to write.", flag_values=values)
    flags.DEFINE_enum("to", "stablehlo", ["stablehlo", "torch"], "What to write.", flag_values=values)
    flags.DEFINE_string("network", ENSEMBLE, "One network; by default the mean of all.", flag_values=values)
    flags.DEFINE_string("film", "1024x1024", "Height x width of the films that go in.", flag_values=values)
    flags.DEFINE_list("platforms", [*PLATFORMS], "What the artefact can run on.", flag_values=values)
    flags.DEFINE_enum("channels", "3", ["1", "3"], "torch: 3, as ImageNet's networks, or 1.", flag_values=values)
    rest = parse(sys.argv, values, __doc__)
    if rest or not values.checkpoint or not values.out:
        raise ConfigError(
            "usage: python -m chexjax.export --checkpoint=WORKDIR --out=FILE [--to=torch]; --help says more"
        )
    film = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", values.film)
    if not film:
        raise ConfigError(f"--film is {values.film!r}; it takes HEIGHTxWIDTH, as 1024x1024")
    out = Path(values.out)
    if out.is_dir():
        raise ConfigError(f"--out={out} is a folder, not a file")
    find_devices()
    restored = restore_best(Path(values.checkpoint).expanduser())
    if values.to == "torch":
        try:
            from safetensors.numpy import save_file
        except ImportError:
            raise ConfigError("--to=torch needs safetensors; install 'chexjax[torch]'") from None
        arrays, about = to_torch(restored, values.network, int(values.channels))
        write(out, partial(save_file, arrays, metadata=about))
        print(f"{out}: a torchvision state dict of {len(arrays)} arrays, step {restored.step} of {restored.workdir}")
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


if __name__ == "__main__":
    main()
