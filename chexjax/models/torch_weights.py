"""Published weights: torchvision's, timm's and CheXNet's into ours, a colour stem into a grey one; and back.

A folder of imported weights holds `weights.npz` (an array per path, such as `params/trunk/conv1/kernel`) and
`weights.json` (the network, and how its films are normalised). With a head, it serves as a workdir wherever one is only
read: to predict, explain, export or teach.

**The grey stem.** torchvision's networks see three channels, channel c normalised by its own mean m_c and standard
deviation s_c; a chest film has one. On a film of grey levels g (in 0 ... 1) the first convolution therefore gives,
with r running over the taps of the kernel W that fall INSIDE the film (the others meet zero padding, which comes after
normalisation),

    sum_r sum_c W_c(r) (g(p + r) - m_c) / s_c  =  sum_r A(r) g(p + r) - sum_r B(r),
    A(r) = sum_c W_c(r) / s_c,    B(r) = sum_c W_c(r) m_c / s_c.

With films that we normalise as x = (g - m) / s this is a convolution of x by the kernel `s A`, and one of a film of
ones by the kernel `m A - B`, both padded with zeros. The second does not depend on the film: away from the border it is
a constant per channel, at the border the taps outside the film are missing. No single kernel, and no constant, can
replace both; so an imported stem has a second parameter beside `kernel`, `offset`, and is exact up to the last pixel.
See `layers.Conv`.
"""

if __name__ == "__main__":
    from chexjax.commands.import_weights import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import ast
import fnmatch
import itertools
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from chexjax.errors import CheckpointError, ConfigError, first_ten, reason_of
from chexjax.files import whole
from chexjax.findings import FINDINGS, read_findings, spelled
from chexjax.models import NETWORKS, architecture_of
from chexjax.models.architecture import TorchNames
from chexjax.models.torch_names import (
    Found,
    Key,
    array_of,
    dotted_names,
    find_networks,
    known_names,
    spelling_of,
    to_jax,
    to_torch,
    torch_names,
    torch_of,
    written,
)
from chexjax.models.weight_files import Tensors, find_tensors, read_state_dict

# What torchvision's ImageNet weights were trained with, of values in 0 ... 1.
IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_STD: Final = (0.229, 0.224, 0.225)
# How our networks see films unless a config says otherwise: `config.data.mean`, `config.data.std`.
MEAN: Final = 0.5
STD: Final = 0.25

ARRAYS: Final = "weights.npz"
ABOUT: Final = "weights.json"

PyTree = Any
Arrays = dict[str, np.ndarray]


def convert_state_dict(
    model: str,
    state_dict: Any,
    input_channels: int = 3,
    *,
    num_outputs: int | None = None,
    findings: Sequence[str] = FINDINGS,
    head: bool = True,
    fresh: Sequence[str] = (),
    key: str = "",
    source_mean: Sequence[float] = IMAGENET_MEAN,
    source_std: Sequence[float] = IMAGENET_STD,
    mean: float = MEAN,
    std: float = STD,
) -> dict[str, PyTree]:
    """The variables of `create_model(model)` from a torch state dict.

    The network is found under any nesting and any prefix (`state_dict.module.densenet121.`). Read are the names of
    torchvision, old (`denselayer1.norm.1`) and new (`denselayer1.norm1`), of timm, for DINOv2 of Hugging Face, and of
    the papers' own code for ConvNeXt, Swin, DeiT and DINO; a trunk saved as a Sequential of the network's children
    (`4.0.conv1`); and a head inside a Sequential (`classifier.0.weight`, as CheXNet has) or beside the trunk
    (`backbone.`, `head.weight`). Arrays that do not belong to the network are left out, with a warning that lists them.
    Of several networks that fit, averaged weights (EMA, SWA) come first, else the first; a warning names the others.

    A backbone without a head is taken as it is, and the result has no `params/head`. A head is kept if its outputs are
    as many as `findings`, which name them; `outputs_of` says which of them, and in what order. Otherwise it is dropped,
    with a warning that names its keys.

    Args:
      model: a key of `models.NETWORKS` that torch has too: resnet18, densenet121, ...
      state_dict: names to arrays, NumPy's or torch's, or a nesting of such; convolutions (out, in, height, width).
      input_channels: 3 keeps a colour stem. 1 folds it into one grey stem that sees films normalised by `mean` and
        `std`, as the colour stem sees them replicated and normalised by `source_mean` and `source_std`: exactly, also
        at the border. A stem that is grey already is kept as it is, unless `source_mean` and `source_std` have one
        value: then it is brought to `mean` and `std` in the same way.
      num_outputs: how many a head must have to be kept whole; by default the outputs are those of `findings`.
      findings: what the outputs of the head mean, in their order; ChestX-ray14's, unless said otherwise here. "" is an
        output that is not wanted.
      head: False leaves a head out, whatever it is, without a warning.
      fresh: patterns of torchvision's names (`layer4.*`) of arrays that are not taken, and may be absent: a run that
        starts from the result draws them anew. Without it every array of the trunk must be there.
      key: where the network stands (`model_ema`), where there are several; `.` for the outermost.
      source_mean, source_std: per channel, of values in 0 ... 1; torchvision's by default.
      mean, std: of the films that the grey stem is to see.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32 NumPy arrays.

    Raises:
      ConfigError: `model` or `input_channels` is not one of those; `key` or a pattern of `fresh` names nothing;
        `findings` other than ours are not as many as the head has outputs.
      CheckpointError: keys are missing, unexpected, of another shape, or not finite; all are listed.
    """
    torch = torch_of(model)
    if input_channels not in (1, 3):
        raise ConfigError(f"input_channels is {input_channels}; a film has 1 channel or 3")
    names, spelling = dotted_names(model), torch.spellings[0]
    anew = _matching(fresh, {spelling.theirs(slot.name)[0]: slot.name for slot in names.values()}, model)
    wanted = {slot.name: slot.shape for path, slot in names.items() if path[1] != "head" and slot.name not in anew}
    stem, width = names[stem_path(model)].name, names["params", "head", "kernel"].shape[1]
    if stem in anew:
        raise ConfigError(
            f"fresh: the stem ({spelling.theirs(stem)[0]}) cannot be drawn anew; without it nothing is worth taking"
        )
    tensors = find_tensors(state_dict)
    own = [slot.name for path, slot in names.items() if path[1] == "trunk"]
    check = partial(_troubles, torch=torch, own=own, wanted=wanted, anew=anew, stem=stem, channels=input_channels)
    network = _choose(find_networks(torch, stem, tensors), check, model, key, tensors)
    if network.spelling.caution:
        warnings.warn(network.spelling.caution, stacklevel=2)
    used = {name: network.names[name] for name in wanted}
    arrays = {name: _in_shape(torch, network, name, tensors, shape) for name, shape in wanted.items()}
    wants_head = head and not any(name.startswith("head.") for name in anew)
    found = _head(network, tensors, width)
    rows = _rows_of_head(found, tensors, num_outputs, findings) if wants_head and found else None
    if found and rows is not None:
        for name, original in found.items():
            arrays[name] = array_of(original, tensors[original])[rows]
            used[name] = original
    known = {*used.values(), *(found or {}).values(), *(network.names[name] for name in anew & network.names.keys())}
    known |= {key for name, keys in network.parts.items() for key in (name, *keys)}
    left = [name for name in tensors if name not in known and not name.endswith(tuple(known_names(torch)))]
    if left:
        warnings.warn(f"left out, not of the network: {_grouped(left, known)}", stacklevel=2)
    _check_finite(arrays, used, model)
    variables = {path: to_jax(path, arrays[slot.name]) for path, slot in names.items() if slot.name in arrays}
    kernel = variables[stem_path(model)]
    if input_channels == 1 and (kernel.shape[2] == 3 or len(source_mean) == 1):
        kernel, offset = fold_stem(kernel, source_mean, source_std, mean, std)
        variables |= {stem_path(model): kernel, offset_path(model): offset}
    return unflatten_dict(variables)


def _matching(patterns: Sequence[str], names: Mapping[str, str], model: str) -> set[str]:
    """Our names of the arrays whose torch name any of the patterns matches; each must match one."""
    found: set[str] = set()
    for pattern in patterns:
        matches = [ours for name, ours in names.items() if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            modules = list(dict.fromkeys(name.rsplit(".", 1)[0].split(".0.")[0] for name in names))
            raise ConfigError(f"fresh: no array of {model} is called {pattern!r}; they are of {first_ten(modules)}")
        found |= set(matches)
    return found


def _in_shape(torch: TorchNames, network: Found, name: str, tensors: Tensors, shape: tuple[int, ...]) -> np.ndarray:
    """An array of the file in the shape that ours has; a warning names one that has to be resampled."""
    key = network.names[name]
    array = array_of(key, tensors[key])
    if network.spelling.shape_of(name, shape) != shape:
        return array.reshape(shape)
    if array.shape == shape or name not in torch.resized:
        return array
    warnings.warn(f"{key} is resampled from {array.shape} to {shape}", stacklevel=3)
    return torch.resized[name](array, shape)


def _head(network: Found, tensors: Tensors, width: int) -> dict[str, str] | None:
    """Weight and bias of the head, by our names: where torch's library has it, else beside the trunk."""
    scopes = [network.base, *(network.base[: m.start()] for m in reversed([*re.finditer(r"[^.]+\.", network.base)]))]
    own = network.theirs("head")
    for scope in scopes:
        for module in dict.fromkeys((own, own.split(".")[0], "fc", "classifier", "head")):
            weight = re.compile(rf"{re.escape(scope + module)}(\.\d+)?\.weight")
            layers = [name.removesuffix(".weight") for name in tensors if weight.fullmatch(name)]
            layers = [layer for layer in layers if tuple(tensors[f"{layer}.weight"].shape[1:]) == (width,)]
            if len(layers) == 1 and f"{layers[0]}.bias" in tensors:
                return {f"head.{leaf}": f"{layers[0]}.{leaf}" for leaf in ("weight", "bias")}
    return None


def _rows_of_head(
    found: dict[str, str], tensors: Tensors, num_outputs: int | None, findings: Sequence[str]
) -> slice | list[int] | None:
    """Which of a head's outputs are kept, in what order; None, with a warning, where the head is dropped.

    Raises:
      ConfigError: `findings`, not those of ChestX-ray14, name another number of outputs than there are.
    """
    weight, bias = (name for _, name in sorted(found.items(), reverse=True))
    count, wanted = len(tensors[weight]), len(findings) if num_outputs is None else num_outputs
    if count != wanted or tuple(tensors[bias].shape) != (count,):
        if num_outputs is None and tuple(findings) != FINDINGS:
            raise ConfigError(
                f"{len(findings)} findings are named, for the {count} outputs of the head ({weight}); name each output "
                "in its order, and leave the name of an unwanted one empty"
            )
        warnings.warn(
            f"the head is dropped ({weight}, {bias}): it does not have {wanted} outputs, one for each of "
            f"{', '.join(findings)}",
            stacklevel=3,
        )
        return None
    return slice(None) if num_outputs is not None else outputs_of(findings)[0]


def outputs_of(names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Which outputs of a head to keep, and the findings that they are.

    Where the names hold all of ChestX-ray14's findings and more, or empty names, those findings are kept, in its order.
    Else all that have a name are kept, in their own. Spaces, underscores and capitals do not matter for ChestX-ray14's.

    Raises:
      ConfigError: a name is there twice or is no name of a finding, or none is left.
    """
    ours = {spelled(finding): finding for finding in FINDINGS}
    known = [ours.get(spelled(name), name.strip()) for name in names]
    rows = [row for row, name in enumerate(known) if name]
    try:
        findings = read_findings([known[row] for row in rows])
    except ValueError as error:
        raise ConfigError(f"--findings: {error}") from None
    if len(names) > len(FINDINGS) and set(FINDINGS) <= set(findings):
        return [known.index(finding) for finding in FINDINGS], FINDINGS
    return rows, findings


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
        raise ConfigError(f"the stem has {wide.shape[2]} channels, but {len(means)} means and {len(stds)} stds")
    gain = (wide / stds).sum(axis=2, keepdims=True)
    constant = mean * gain - (wide * means / stds).sum(axis=2, keepdims=True)
    if offset is not None:
        constant += np.asarray(offset, np.float64)
    return (std * gain).astype(np.float32), constant.astype(np.float32)


def _choose(
    networks: Sequence[Found], check: Callable[..., dict[str, list[str]]], model: str, key: str, tensors: Tensors
) -> Found:
    """The network to take; a warning names others that would do as well. `check(network, tensors)` lists its troubles.

    Raises:
      ConfigError: `key` names none.
      CheckpointError: none fits; tells what is wrong with the one that comes nearest.
    """
    if not networks:
        foreign = {
            reason: name
            for other in NETWORKS.values() if other.torch
            for array, reason in other.torch.foreign.items()
            for name in tensors if f".{name}".endswith(f".{array}")
        }  # fmt: skip
        if foreign:
            reason, name = next(iter(foreign.items()))
            raise CheckpointError(f"these are not the weights of {model}: {name} is {reason}")
        kin, _ = _nearest(tensors)
        names = [name or "a tensor without a name" for name in tensors]
        holds = f"it holds {_grouped(names)}; they have the names of {kin}"
        if not kin:
            holds = f"it holds {first_ten(names)}; is this a state dict?" if names else "it holds no tensors at all"
        raise CheckpointError(f"these are not the weights of {model}: {holds}")
    asked = [network for network in networks if not key or f"{network.key}.".startswith(f"{key.rstrip('.')}.")]
    if not asked:
        known = dict.fromkeys(network.key for network in networks)
        raise ConfigError(f"key {key!r} names no network; there are {', '.join(known)}")
    troubles = [check(network, tensors) for network in asked]
    fitting = [network for network, trouble in zip(asked, troubles, strict=True) if not any(trouble.values())]
    if not fitting:
        nearest = min(troubles, key=lambda trouble: sum(map(len, trouble.values())))
        only_gaps = [kind for kind, keys in nearest.items() if keys] == ["missing"]
        advice = ["where a run is to draw some of them anew, name them: --fresh='layer4.*'"] if only_gaps else []
        kin, is_whole = _nearest(tensors)
        if is_whole and kin != model:
            advice = [f"their names are those of {kin}: --model={kin}"]
        raise CheckpointError("\n".join([f"these are not the weights of {model}", *_lines(nearest), *advice]))
    chosen = next((network for network in fitting if network.averaged), fitting[0])
    stem = dotted_names(model)[stem_path(model)].name  # a part of the chosen one has the same
    others = dict.fromkeys(network.key for network in fitting if network.names[stem] != chosen.names[stem])
    if others:
        kind = " (averaged weights)" if chosen.averaged else ""
        warnings.warn(f"takes {chosen.key}{kind}; {', '.join(others)} would fit, too: choose by --key", stacklevel=3)
    return chosen


def _nearest(tensors: Tensors) -> tuple[str, bool]:
    """The network that a file's names are most like, "" where like none, and whether they are the same, heads aside."""
    alike = {name: _likeness(name, other.torch, tensors) for name, other in NETWORKS.items() if other.torch}
    kin = max(alike, key=alike.__getitem__)
    return (kin, alike[kin] == 1.0) if alike[kin] else ("", False)


def _likeness(model: str, torch: TorchNames, tensors: Tensors) -> float:
    """The share of the arrays of the file's likeliest network that a `model` has, too."""
    slots = dotted_names(model)
    known = {slot.name for path, slot in slots.items() if path[1] != "head"}
    networks = find_networks(torch, slots[stem_path(model)].name, dict(tensors))
    own = {name.split(".")[0] for name in known}
    found = [{name for name in network.names if name.split(".")[0] in own} for network in networks]
    found = [{name for name in names if not name.endswith(tuple(known_names(torch)))} for names in found]
    return max((len(known & names) / len(known | names) for names in found), default=0.0)


def _troubles(
    network: Found, tensors: Tensors, torch: TorchNames, own: Sequence[str], wanted: dict[str, tuple[int, ...]],
    anew: set[str], stem: str, channels: int,
) -> dict[str, list[str]]:  # fmt: skip
    """What of the trunk is not as wanted, by kind, in the library's names.

    An array that the network lacks is no trouble, unless its name begins as one of the trunk's `own` does, here or in
    the library.
    """
    shapes = {name: tuple(tensors[key].shape) for name, key in network.names.items() if name in wanted}
    wanted = dict(wanted)
    if stem in shapes and len(shapes[stem]) == 4:
        seen = shapes[stem][1]
        wanted[stem] = (wanted[stem][0], seen if seen in (channels, 3) else channels, *wanted[stem][2:])
    wanted = {name: network.spelling.shape_of(name, shape) for name, shape in wanted.items()}
    ours = {name.split(".")[0] for name in (*own, *torch.refused)}
    ours |= {part.split(".")[0] for name in own for part in network.spelling.theirs(name)}
    misshaped = [name for name in shapes if not _fits(torch, name, shapes[name], wanted[name])]
    return {
        "missing": [network.theirs(name) for name in wanted if name not in network.names],
        "unexpected": [
            key
            for name, key in network.names.items()
            if name.split(".")[0] in ours
            and name not in wanted
            and name not in anew
            and not name.endswith(tuple(known_names(torch)))
        ],
        "misshaped": [f"{network.names[name]} {shapes[name]} for {wanted[name]}" for name in misshaped],
        "changed constants": [
            key for name, key in network.names.items() if not _is_constant(torch, name, tensors[key])
        ],
    }


def _fits(torch: TorchNames, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    if shape != wanted and name in torch.resized:
        try:
            torch.resized[name](np.zeros(shape, np.float32), wanted)
        except ValueError:
            return False
        return True
    return shape == wanted


def _is_constant(torch: TorchNames, name: str, value: Any) -> bool:
    """Whether an array is what torch's constant of that name is; an array that is none passes."""
    for leaf, constant in torch.constants.values():
        if name.endswith(f".{leaf}"):
            found = array_of(name, value)
            return found.size == constant.size and bool((found.reshape(-1) == constant.reshape(-1)).all())
    derived = torch.derived.get(name.rpartition(".")[2])
    return derived is None or derived(array_of(name, value))


def _lines(troubles: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"{kind} {len(keys)}: {', '.join(keys)}" for kind, keys in troubles.items() if keys]


def _grouped(names: Sequence[str], others: Collection[str] = ()) -> str:
    """Names of tensors; of many under one roof only the roof, which none of `others` is under, with their number."""
    taken = {name[:end] for name in others for end in range(len(name)) if name[end] == "."}
    groups: dict[str, list[str]] = {}
    for name in names:
        roofs = itertools.accumulate(name.split("."), lambda above, part: f"{above}.{part}")
        groups.setdefault(next((roof for roof in roofs if roof not in taken), name), []).append(name)
    return ", ".join(
        f"{roof} ({len(group)} tensors)" if len(group) > 4 else ", ".join(group) for roof, group in groups.items()
    )


def _check_finite(arrays: Arrays, originals: Mapping[str, str], model: str) -> None:
    bad = [originals[name] for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise CheckpointError("\n".join([f"these are not the weights of {model}", *_lines({"not finite": bad})]))


# The way back


def to_state_dict(
    model: str, variables: PyTree, channels: int, mean: float = MEAN, std: float = STD, library: str | None = None
) -> Arrays:
    """A torch state dict of the network's variables: the inverse of `convert_state_dict`.

    Args:
      model: as there.
      variables: `{"params": ..., "batch_stats": ...}`.
      channels: 1 or 3, of the films that the torch network is to see. A grey stem becomes one of three channels, to
        see films replicated and normalised by ImageNet's mean and standard deviation, and gives the same logits.
      mean, std: of the films that a grey stem sees.
      library: whose names to write: torchvision, timm, transformers; None: torchvision's, or timm's where that has no
        such network.

    Returns:
      Names to float32 arrays, and the constants that torch keeps beside them (`num_batches_tracked`).

    Raises:
      ConfigError: the library's names for the network are not known; or `channels` is 1, but the stem sees three
        channels, or has an offset, which torch's has not.
      CheckpointError: the variables are not those of the network.
    """
    spelling = spelling_of(model, library)
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
    names = dotted_names(model, len(head) or 14)
    arrays = {
        names[path].name if path in names else "/".join(path): np.ascontiguousarray(to_torch(path, value))
        for path, value in flat.items()
    }
    wanted, stem = {slot.name: slot.shape for slot in names.values()}, names[stem_path(model)].name
    network = Found("", replace(spelling, columns=()), {name: name for name in arrays})
    torch = replace(torch_of(model), resized={})
    troubles = _troubles(network, arrays, torch, [], wanted, set(), stem, channels)
    troubles["unexpected"] = [name for name in arrays if name not in wanted]
    if any(troubles.values()):
        raise CheckpointError("\n".join([f"these are not the weights of {model}", *_lines(troubles)]))
    _check_finite(arrays, network.names, model)
    return written(arrays, torch, spelling)


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
    `findings` are the outputs of the head, where there is one; `fresh` are torchvision's names of the arrays that are
    left out, for a run to draw anew.
    """

    model: str
    mean: float
    std: float
    source: str
    size: int = 224
    findings: tuple[str, ...] = FINDINGS
    fresh: tuple[str, ...] = ()


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
            raise ValueError(f"{ABOUT} does not name a model, a mean and a std")
        if not (isinstance(about.fresh, list | tuple) and all(isinstance(name, str) for name in about.fresh)):
            raise ValueError(f"{ABOUT}: fresh is no list of names")
        with zipfile.ZipFile(folder / ARRAYS) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
                raise ValueError("its arrays are compressed, which ours never are: they may be of any size")
        with np.load(folder / ARRAYS, allow_pickle=False) as file:
            variables = unflatten_dict({tuple(key.split("/")): file[key] for key in file.files})
        return variables, about
    except Exception as error:  # zipfile and NumPy have no family: BadZipFile, struct.error, EOFError, SyntaxError, ...
        raise CheckpointError(f"{folder} holds no imported weights: {reason_of(error)}") from None


def names_in(text: str) -> tuple[str, ...]:
    """What `--findings` says: the names in a file, one a line or with commas between them, or the names themselves.

    A list as JSON, Python or YAML writes it is read, too.

    Raises:
      ConfigError: there is no such file, and the text holds no comma; or the file is no text, or a broken list.
    """
    path = Path(text).expanduser()
    try:
        is_file = path.is_file()
    except OSError:  # names with commas may be longer than a path
        is_file = False
    if not is_file:
        if "," not in text:
            raise ConfigError(f"--findings={text}: no such file; it holds the names of the head's outputs, one a line")
        return _names(text, text.split(","))
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--findings={text} cannot be read as text: {reason_of(error)}") from None
    lines = content.splitlines()
    if len(lines) == 1:
        lines = lines[0].split(",")
    return _names(content, lines)


def _names(content: str, parts: Sequence[str]) -> tuple[str, ...]:
    """The names in a text that is a list in brackets, or else in its parts."""
    if content.lstrip()[:1] in ("[", "{"):
        try:
            listed = ast.literal_eval(content.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            listed = None
        if not isinstance(listed, list | tuple) or not all(isinstance(name, str) for name in listed):
            raise ConfigError(f"--findings is no list of names: {reason_of(ValueError(content.strip()))}")
        return tuple(name.strip() for name in listed)
    names = [part.strip() for part in parts]
    if all(name.startswith("- ") for name in names):
        names = [name.removeprefix("- ").strip() for name in names]
    return tuple(name.strip("\"'") for name in names)


def import_file(
    model: str, path: Path, out: Path, size: int = 224, findings: Sequence[str] = FINDINGS,
    fresh: Sequence[str] = (), **options: Any,
) -> About:  # fmt: skip
    """Reads `path`, folds its stem into a grey one, and writes the folder `out`; says what was taken, and what was not.

    `size` is the side of the films to predict from; the others are those of `convert_state_dict`.

    Raises:
      ChexjaxError: as for `read_state_dict`, `convert_state_dict` and `save_weights`; the file is named.
    """
    _, kept_findings = outputs_of(findings)
    state_dict = read_state_dict(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            variables = convert_state_dict(
                model, state_dict, input_channels=1, findings=findings, fresh=fresh, **options
            )  # fmt: skip
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
    names = [slot.name for key, slot in torch_names(model).items() if key[1] != "head"]
    anew = tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in fresh))
    about = About(model, MEAN, STD, path.name, size, kept_findings, anew)
    save_weights(out, variables, about)
    for warning in caught:
        print(warning.message)
    if anew:
        print(f"left out, for a run to draw anew: {_grouped(anew)}")
    kept = "head" in variables["params"]
    head = f"its head, whose outputs are taken to be {', '.join(kept_findings)}" if kept else "no head"
    print(f"{out}: {model} from {path.name} for grey films, with {head}")
    return about
