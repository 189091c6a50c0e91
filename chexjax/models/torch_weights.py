"""Weights that people have: torchvision's and CheXNet's into ours, a colour stem into a grey one; and back.

    python -m chexjax.models.torch_weights --model=densenet121 FILE.pth --out=DIR
    python -m chexjax.predict --checkpoint=DIR FOLDER --out=OUT
    python -m chexjax.main --config=configs/baseline.py:densenet121 --config.init_from=DIR --workdir=RUN

A folder of imported weights holds `weights.npz` (an array a path, as `params/trunk/conv1/kernel`) and `weights.json`
(whose they are, and how the network wants its films). With a head it is as good as a workdir wherever one is only read:
to predict, explain, export, teach.

**The grey stem.** torchvision's networks see three channels, channel c normalised by its own mean m_c and spread s_c; a
chest film has one. On a film of grey levels g (in 0 ... 1) the first convolution therefore gives, with r running over
the places of the kernel W that fall INSIDE the film (padding is zero after normalisation: the others give nothing),

    sum_r sum_c W_c(r) (g(p + r) - m_c) / s_c  =  sum_r A(r) g(p + r) - sum_r B(r),
    A(r) = sum_c W_c(r) / s_c,    B(r) = sum_c W_c(r) m_c / s_c.

With films that we normalise as x = (g - m) / s this is a convolution of x by the kernel `s A`, and one of a film of
ones by the kernel `m A - B`, both padded with zeros. The second does not depend on the film: away from the border it is
a constant per channel, at the border it lacks the places outside. No single kernel, and no constant, can stand for
both; so an imported stem has a second parameter beside `kernel`, `offset`, and is exact up to the last pixel. See
`layers.Conv`.
"""

import functools
import json
import re
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.traverse_util import flatten_dict, unflatten_dict

from chexjax.devices import find_devices
from chexjax.errors import CheckpointError, ConfigError, command, reason_of
from chexjax.files import whole
from chexjax.findings import FINDINGS, read_findings
from chexjax.models import NETWORKS, architecture_of, create_model
from chexjax.models.architecture import TorchNames
from chexjax.runtime import parse

# What torchvision's ImageNet weights were trained with, of values in 0 ... 1.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
# How our networks see films unless a config says otherwise: `config.data.mean`, `config.data.std`.
MEAN: Final = 0.5
STD: Final = 0.25

ARRAYS: Final = "weights.npz"
ABOUT: Final = "weights.json"

PyTree = Any
Key = tuple[str, ...]  # the path of an array in a tree of variables
Arrays = dict[str, np.ndarray]

LAYER_SCALE: Final = "layer_scale"
LEAVES: Final = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    LAYER_SCALE: LAYER_SCALE,
}


def convert_state_dict(
    model: str,
    state_dict: Mapping[str, Any],
    input_channels: int = 3,
    *,
    num_outputs: int | None = None,
    findings: Sequence[str] = FINDINGS,
    head: bool = True,
    source_mean: Sequence[float] = IMAGENET_MEAN,
    source_std: Sequence[float] = IMAGENET_STD,
    mean: float = MEAN,
    std: float = STD,
) -> dict[str, PyTree]:
    """The variables of `create_model(model)` out of a torchvision state dict.

    Understands torchvision's names, old (`denselayer1.norm.1`) and new (`denselayer1.norm1`), a prefix that all keys
    share (`module.`, `module.densenet121.`), a head inside a Sequential (`classifier.0.weight`, as CheXNet has), and a
    checkpoint that holds its weights under `state_dict`. `num_batches_tracked` holds nothing that we use.

    The head is kept if it has `num_outputs` outputs. Otherwise it is dropped, with a warning that names its keys, and
    the result has no `params/head`.

    Args:
      model: a key of `models.NETWORKS` that torch has too: resnet18, densenet121, ...
      state_dict: names to arrays, NumPy's or torch's; convolutions (out, in, height, width).
      input_channels: 3 keeps a colour stem. 1 folds it into one grey stem that sees films normalised by `mean` and
        `std`, as the colour stem sees them replicated and normalised by `source_mean` and `source_std`: exactly, also
        at the border. A stem that is grey already is kept as it is, unless `source_mean` and `source_std` have one
        value: then it is brought to `mean` and `std` in the same way.
      num_outputs: how many the head must have to be kept; by default one a finding.
      findings: what the outputs of the head mean, in their order; ChestX-ray14's, unless said otherwise here.
      head: False leaves a head out, whatever it is, without a warning; it may then be absent.
      source_mean, source_std: per channel, of values in 0 ... 1; torchvision's by default.
      mean, std: of the films that the grey stem is to see.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32 NumPy arrays.

    Raises:
      ConfigError: `model` or `input_channels` is not one of those.
      CheckpointError: keys are missing, unexpected, of another shape, or not finite; all are listed.
    """
    torch = _torch_of(model)
    if input_channels not in (1, 3):
        raise ConfigError(f"input_channels is {input_channels}; a film has 1 channel or 3")
    arrays, originals = _torchvision_names(torch, state_dict)
    num_outputs = len(findings) if num_outputs is None else num_outputs
    names = torch_names(model, num_outputs)
    kept = head and _head_fits(arrays, torch.head, num_outputs)
    if not kept:
        names = {path: slot for path, slot in names.items() if path[1] != "head"}
        dropped = [name for name in arrays if name.startswith(f"{torch.head}.")]
        if head:
            warnings.warn(
                f"the head is dropped ({', '.join(originals[name] for name in dropped)}): it does not have "
                f"{num_outputs} outputs, one for each of {', '.join(findings)}",
                stacklevel=2,
            )
        arrays = {name: array for name, array in arrays.items() if name not in dropped}
    stem = names[stem_path(model)].name
    seen = arrays[stem].shape[1] if stem in arrays and arrays[stem].ndim == 4 else input_channels
    seen = seen if seen in (input_channels, 3) else input_channels
    _check(arrays, names, stem, seen, originals, model)
    variables = {path: _to_jax(arrays[slot.name]) for path, slot in names.items()}
    if input_channels == 1 and (seen == 3 or len(source_mean) == 1):
        kernel, offset = fold_stem(variables[stem_path(model)], source_mean, source_std, mean, std)
        variables |= {stem_path(model): kernel, offset_path(model): offset}
    return unflatten_dict(variables)


def _head_fits(arrays: Arrays, head: str, num_outputs: int) -> bool:
    """Whether the head is to be kept; one that is absent is, too, so that it is told as missing."""
    weight = arrays.get(f"{head}.weight")
    return weight is None or len(weight) == num_outputs


@dataclass(frozen=True)
class Slot:
    """Where torch keeps an array: its name, and its shape there."""

    name: str
    shape: tuple[int, ...]


@functools.cache
def torch_names(model: str, num_outputs: int = 14) -> dict[Key, Slot]:
    """For the path of each of the network's arrays, torchvision's key and shape, of a stem of three channels.

    Our names are torchvision's with `_` for the dots inside a module, so that this is a rule and no table.

    Raises:
      ConfigError: no network of torchvision's has that name.
    """
    torch = _torch_of(model)
    network = create_model(model, num_outputs)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    outside, names = {"head": torch.head, "norm": torch.norm}, {}
    for path, leaf in flatten_dict(shapes).items():
        module = outside.get(path[1]) or torch.trunk + ".".join(path[2:-1]).replace("_", ".")
        names[path] = Slot(f"{module}.{LEAVES[path[-1]]}", _torch_shape(path, leaf.shape))
    return names


def stem_path(model: str) -> Key:
    """The path of the first convolution's kernel."""
    return ("params", "trunk", architecture_of(model).stem, "kernel")


def offset_path(model: str) -> Key:
    """The path of what an imported stem has beside its kernel; see the module."""
    return (*stem_path(model)[:-1], "offset")


def fold_stem(
    kernel: np.ndarray,
    source_mean: Sequence[float],
    source_std: Sequence[float],
    mean: float,
    std: float,
    offset: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A stem for films normalised by `source_mean` and `source_std`, as one for grey films normalised by `mean`, `std`.

    Args:
      kernel: (height, width, channels, filters).
      source_mean, source_std: one for each of the channels, each of which holds the same grey film.
      offset: (height, width, 1, filters), what the stem already has beside its kernel.

    Returns:
      `kernel` and `offset`, float32 (height, width, 1, filters); see the module. The sums are made in float64.
    """
    wide = np.asarray(kernel, np.float64)
    means, stds = (np.asarray(values, np.float64)[:, None] for values in (source_mean, source_std))
    if not wide.shape[2] == len(means) == len(stds):
        raise ConfigError(f"the stem has {wide.shape[2]} channels, but {len(means)} means and {len(stds)} spreads")
    gain = (wide / stds).sum(axis=2, keepdims=True)
    constant = mean * gain - (wide * means / stds).sum(axis=2, keepdims=True)
    if offset is not None:
        constant += np.asarray(offset, np.float64)
    return (std * gain).astype(np.float32), constant.astype(np.float32)


def _torch_of(model: str) -> TorchNames:
    """How torch names the network's arrays.

    Raises:
      ConfigError: there is no such network, here or in torchvision.
    """
    torch = architecture_of(model).torch
    if torch is None:
        known = ", ".join(name for name, architecture in NETWORKS.items() if architecture.torch)
        raise ConfigError(f"torchvision has no network called {model!r}; torch weights are read and written of {known}")
    return torch


def _torch_shape(path: Key, shape: tuple[int, ...]) -> tuple[int, ...]:
    """(height, width, in, out) -> (out, in, height, width); (in, out) -> (out, in); of a layer's scale (out, 1, 1)."""
    if path[-1] == LAYER_SCALE:
        return (*shape, 1, 1)
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _to_jax(array: np.ndarray) -> np.ndarray:
    """(out, in, height, width) -> (height, width, in, out); (out, in) -> (in, out); (out, 1, 1) -> (out,)."""
    if array.ndim == 3:
        return array.reshape(-1)
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


def _to_torch(path: Key, array: np.ndarray) -> np.ndarray:
    """The way back."""
    if path[-1] == LAYER_SCALE:
        return array[:, None, None]
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def _torchvision_names(torch: TorchNames, state_dict: Mapping[str, Any]) -> tuple[Arrays, dict[str, str]]:
    """The arrays under torchvision's present names, and for each the key under which it came."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state_dict.get(key), Mapping):
            state_dict = state_dict[key]
    renamed = {str(key): _modern(str(key)) for key in state_dict}
    anchors = [name for name in renamed.values() if f".{name}".endswith(f".{torch.anchor}")]
    prefix = min(anchors, key=len).removesuffix(torch.anchor) if anchors else ""
    head = re.compile(rf"{re.escape(torch.head)}\.(\d+)\.(weight|bias)")
    places = {match[1] for name in renamed.values() if (match := head.fullmatch(name.removeprefix(prefix)))}
    arrays: Arrays = {}
    originals: dict[str, str] = {}
    for key, name in renamed.items():
        if name.endswith("num_batches_tracked"):
            continue
        name = name.removeprefix(prefix)
        if len(places) == 1 and (match := head.fullmatch(name)):
            name = f"{torch.head}.{match[2]}"
        if name in arrays:
            raise CheckpointError(f"the keys {originals[name]} and {key} both stand for {name}")
        arrays[name], originals[name] = _array(key, state_dict[key]), key
    return arrays, originals


def _modern(key: str) -> str:
    """`denselayer1.norm.1.weight`, as in torchvision's files of 2017, -> `denselayer1.norm1.weight`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)


def _array(key: str, value: Any) -> np.ndarray:
    """float32, of a NumPy array or a torch tensor of any precision."""
    if hasattr(value, "detach"):  # a tensor; NumPy has no bfloat16 of its own
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if not isinstance(value, np.ndarray):
        raise CheckpointError(f"the key {key} holds no array but {type(value).__name__}; is this a state dict?")
    return value.astype(np.float32)


def _check(
    arrays: Arrays, names: dict[Key, Slot], stem: str, channels: int, originals: dict[str, str], model: str
) -> None:
    """Lists everything about `arrays` that is not as `names` has it."""
    shapes = {slot.name: slot.shape for slot in names.values()}
    shapes[stem] = (shapes[stem][0], channels, *shapes[stem][2:])
    both = [name for name in shapes if name in arrays]
    troubles = {
        "missing": [name for name in shapes if name not in arrays],
        "unexpected": [originals[name] for name in arrays if name not in shapes],
        "misshaped": [
            f"{originals[n]} {arrays[n].shape} for {shapes[n]}" for n in both if arrays[n].shape != shapes[n]
        ],
        "not finite": [originals[name] for name in both if not np.isfinite(arrays[name]).all()],
    }
    told = [f"{kind} {len(keys)}: {', '.join(keys)}" for kind, keys in troubles.items() if keys]
    if told:
        raise CheckpointError("\n".join([f"these are not the weights of a {model}", *told]))


# The way back


def to_state_dict(model: str, variables: PyTree, channels: int, mean: float = MEAN, std: float = STD) -> Arrays:
    """A torchvision state dict of the network's variables: the inverse of `convert_state_dict`.

    Args:
      model: as there.
      variables: `{"params": ..., "batch_stats": ...}`.
      channels: 1 or 3, of the films that the torch network is to see. A grey stem becomes one of three channels, to
        see films replicated and normalised by ImageNet's mean and spread, and gives the same logits.
      mean, std: of the films that a grey stem sees.

    Returns:
      Names to float32 arrays, `num_batches_tracked` among them.

    Raises:
      ConfigError: `channels` is 1, but the stem sees three channels, or has an offset, which torchvision's has not.
      CheckpointError: the variables are not those of the network.
    """
    flat = {path: np.asarray(value, np.float32) for path, value in flatten_dict(dict(variables)).items()}
    offset = flat.pop(offset_path(model), None)
    kernel = flat.get(stem_path(model))
    seen = 0 if kernel is None else kernel.shape[2]
    if channels not in (1, 3) or (channels == 1 and (seen == 3 or offset is not None)):
        why = "has an offset, which torchvision's has not" if offset is not None else f"sees {seen} channels"
        raise ConfigError(f"a state dict of {channels} channels cannot be written: the stem {why}; write 3 channels")
    if kernel is not None and (seen, channels) == (1, 3):
        flat[stem_path(model)] = unfold_stem(kernel, offset, mean, std)
    head = flat.get(("params", "head", "bias"), np.zeros(0))
    names = torch_names(model, len(head) or 14)
    arrays = {
        names[path].name if path in names else "/".join(path): _to_torch(path, value) for path, value in flat.items()
    }
    _check(arrays, names, names[stem_path(model)].name, channels, {name: name for name in arrays}, model)
    counts = {
        name.replace("running_mean", "num_batches_tracked"): np.zeros((), np.int64)
        for name in arrays
        if name.endswith("running_mean")
    }
    return arrays | counts


def unfold_stem(kernel: np.ndarray, offset: np.ndarray | None, mean: float, std: float) -> np.ndarray:
    """A kernel for three channels, normalised as ImageNet's, that acts on a replicated film as the grey stem does.

    A place of the kernel has three unknowns W_c and two equations, sum_c W_c / s_c = A and sum_c W_c m_c / s_c = B (see
    the module); the least of the solutions is taken.
    """
    gain = np.asarray(kernel, np.float64)[:, :, 0] / std
    constant = mean * gain - (0.0 if offset is None else np.asarray(offset, np.float64)[:, :, 0])
    means, stds = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    solve = np.linalg.pinv(np.stack([1.0 / stds, means / stds]))  # (3, 2)
    return np.einsum("ce,ehwf->hwcf", solve, np.stack([gain, constant])).astype(np.float32)


# Files


@dataclass(frozen=True)
class About:
    """Whose the weights of a folder are, and how they want their films.

    `mean` and `std` are of grey / 255; `source` is the name of the file they came from; `size` is the films' side;
    `findings` are the outputs of the head, where there is one.
    """

    model: str
    mean: float
    std: float
    source: str
    size: int = 224
    findings: tuple[str, ...] = FINDINGS


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """What a `.safetensors`, `.pth`, `.pth.tar` or `.pt` file holds. No code in it is run: only tensors are unpickled.

    Raises:
      CheckpointError: no such file, or it holds something else, or is broken.
      ConfigError: what reads it is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(path)
        import torch
    except ImportError as error:
        raise ConfigError(f"{path} cannot be read without {error.name}; install 'chexjax[torch]'") from None
    except Exception as error:
        raise CheckpointError(f"{path} is no safetensors file: {str(error).splitlines()[0]}") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, ...: torch has no family for it
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line), str(error).splitlines()[0]
        )
        raise CheckpointError(
            f"{path} does not load as tensors alone, and nothing else is unpickled: {reason}\n"
            "where you trust the file, save its state_dict() again, by torch.save or as .safetensors"
        ) from None
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds no state dict but {type(found).__name__}")
    return found


def save_weights(folder: Path, variables: PyTree, about: About) -> None:
    """Writes a folder of weights, whole or not at all."""
    if folder.exists():
        raise CheckpointError(f"{folder} exists; choose another --out")
    with whole(folder) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        np.savez(partial / ARRAYS, **flatten_dict(variables, sep="/"))
        (partial / ABOUT).write_text(json.dumps(asdict(about), indent=2))


def load_weights(folder: Path) -> tuple[dict[str, PyTree], About]:
    """The variables of a folder of imported weights, and what they are.

    Raises:
      CheckpointError: the folder holds none, or broken ones.
    """
    try:
        fields = json.loads((folder / ABOUT).read_text())
        about = About(**{**fields, "findings": read_findings(fields.get("findings"))})
        if not (isinstance(about.model, str) and abs(about.mean) < 1e6 and 0 < about.std < 1e6):
            raise ValueError(f"{ABOUT} does not tell a model, a mean and a spread")
        with zipfile.ZipFile(folder / ARRAYS) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
                raise ValueError("its arrays are compressed, which ours never are: they may be of any size")
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            variables = unflatten_dict({tuple(key.split("/")): file[key] for key in file.files})
        return variables, about
    except Exception as error:  # zipfile and NumPy have no family: BadZipFile, struct.error, EOFError, SyntaxError, ...
        raise CheckpointError(f"{folder} holds no imported weights: {reason_of(error)}") from None


@command
def main() -> None:
    """The command line: imports a file into a folder that `--checkpoint` and `--config.init_from` take."""
    values = flags.FlagValues()
    flags.DEFINE_enum("model", None, [n for n, a in NETWORKS.items() if a.torch], "The network.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)
    flags.DEFINE_integer("size", 224, "The side of the films that it predicts from.", 32, flag_values=values)
    flags.DEFINE_boolean("head", True, "Keep a head with an output a finding; --nohead: none.", flag_values=values)
    flags.DEFINE_list("findings", [*FINDINGS], "What the head's outputs mean, in their order.", flag_values=values)
    flags.DEFINE_list(
        "source_mean", [*map(str, IMAGENET_MEAN)], "The file's normalisation, a channel each.", flag_values=values
    )
    flags.DEFINE_list(
        "source_std", [*map(str, IMAGENET_STD)], "The file's normalisation, a channel each.", flag_values=values
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
    find_devices()
    import_file(
        values.model, Path(rest[0]), Path(values.out), values.size, head=values.head, findings=values.findings,
        source_mean=mean, source_std=std,
    )  # fmt: skip


def import_file(
    model: str, path: Path, out: Path, size: int = 224, findings: Sequence[str] = FINDINGS, **options: Any
) -> About:
    """Reads `path`, folds its stem into a grey one, and writes the folder `out`; says what became of the head.

    `size` is the side of the films to predict from; `findings` and `options` are those of `convert_state_dict`.

    Raises:
      ConfigError: `findings` are no names of findings; and as `convert_state_dict`.
    """
    try:
        findings = read_findings(list(findings))
    except ValueError as error:
        raise ConfigError(f"--findings: {error}") from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        variables = convert_state_dict(model, read_state_dict(path), input_channels=1, findings=findings, **options)
    about = About(model, MEAN, STD, path.name, size, findings)
    save_weights(out, variables, about)
    for warning in caught:
        print(warning.message)
    kept = "head" in variables["params"]
    head = f"its head, whose outputs are taken to be {', '.join(findings)}" if kept else "no head"
    print(f"{out}: a {model} of {path.name} for grey films, with {head}")
    return about


if __name__ == "__main__":
    main()
