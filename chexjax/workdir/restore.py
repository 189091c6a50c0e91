"""Restores the networks of a workdir: for evaluation, prediction, export, as a teacher or as a starting point."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from chexjax.data.images import MAX_SIDE
from chexjax.data.recipe import CLEANING, Recipe, recipe_of
from chexjax.devices import find_devices
from chexjax.errors import CheckpointError, ChexjaxError, ConfigError, first_ten, reason_of
from chexjax.findings import read_findings
from chexjax.models import Groups, create_model
from chexjax.models.configured import AnyNetwork, create_network, first_variables, stem_of
from chexjax.models.network import by_names
from chexjax.models.torch_weights import ABOUT, load_weights
from chexjax.models.weight_files import SUFFIXES, kind_of
from chexjax.workdir.checkpoints import Checkpoints, Metadata, check_fit, digests
from chexjax.workdir.config import CHECKPOINTS, CONFIG, read_config

PyTree = Any
IMPORTED: Final = "net1"  # the name of the one network in a folder of imported weights


@dataclass(frozen=True)
class Restored:
    """The best checkpoint of a workdir.

    `config` is the one that made it, and says how films are prepared (`data.size`, `data.clean`, `data.mean`,
    `data.std`). `models` and `variables` are by network name: `models[name].apply(variables[name], x, train=False)`.
    """

    workdir: Path
    config: ConfigDict
    step: int
    models: dict[str, AnyNetwork]
    variables: dict[str, PyTree]
    metadata: Metadata

    @property
    def findings(self) -> tuple[str, ...]:
        """What the networks predict: one finding an output, in order."""
        return findings_in(self.metadata)

    @cached_property
    def digest(self) -> str:
        """A sha256 of the weights, by which a resumed run recognises them."""
        return hashlib.sha256(json.dumps(digests(self.variables), sort_keys=True).encode()).hexdigest()


def restore_best(workdir: Path, checkpoints: Checkpoints | None = None) -> Restored:
    """Reads the config of `workdir` and the networks of its best checkpoint, as arrays on the host.

    A folder of imported weights works as well, if they came with a head. Pass `checkpoints` if they are already open:
    opening them hashes every file.

    Raises:
      CheckpointError: the workdir holds no whole checkpoint, or one that does not fit its config.
      ConfigError: JAX finds no device.
    """
    find_devices()
    imported = (workdir / ABOUT).exists()
    if not imported:
        check_no_file(workdir)
        read_config(workdir)  # a folder without config.json is refused
    try:
        return _imported(workdir) if imported else _restore(workdir, checkpoints or Checkpoints(workdir))
    except ChexjaxError:
        raise
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        AssertionError,
    ) as error:
        message = f"{workdir} was made by another version of chexjax: {reason_of(error)}; train anew"
        raise CheckpointError(message) from error


def check_no_file(workdir: Path) -> None:
    """Refuses what lies in a workdir, imported weights, and those not imported yet: a file, or a folder of such files.

    Raises:
      CheckpointError: says what to do first.
    """
    if workdir.exists() and not (workdir / CHECKPOINTS).is_dir() and (owner := _owner_of(workdir)):
        raise CheckpointError(f"{workdir} lies in a workdir; name that: {owner}")
    if (workdir / ABOUT).is_file():
        raise CheckpointError(
            f"{workdir} holds imported weights, not a run\n"
            f"train from them: --config=configs/baseline.py:MODEL --config.init_from={workdir} --workdir=ANOTHER"
        )
    files = [workdir] if workdir.is_file() else []
    if workdir.is_dir() and not (workdir / CONFIG).exists():
        files = sorted(path for path in workdir.iterdir() if path.name.lower().endswith(SUFFIXES) and path.is_file())
    if files:
        found = "a file, not a workdir" if files == [workdir] else f"no workdir; it holds {files[0].name}"
        if not files[0].name.lower().endswith(SUFFIXES) and kind_of(files[0]) not in ("torch", "safetensors"):
            raise CheckpointError(f"{workdir} is {found}")
        raise CheckpointError(
            f"{workdir} is {found}\nimport weights first, then name the folder this makes: "
            f"python -m chexjax.models.torch_weights --model=MODEL {files[0]} --out=DIR"
        )


def _owner_of(path: Path) -> Path | None:
    """The workdir, or the folder of imported weights, that a path lies in."""
    for folder in path.parents:
        if (folder / ABOUT).is_file() or ((folder / CONFIG).is_file() and (folder / CHECKPOINTS).is_dir()):
            return folder
    return None


def _restore(workdir: Path, checkpoints: Checkpoints) -> Restored:
    step = checkpoints.best
    config, metadata = checkpoints.config(step), checkpoints.metadata(step)
    check_films(config.data)
    groups, outputs = groups_in(metadata), len(findings_in(metadata))
    models = {name: create_network(config, name, groups, num_outputs=outputs) for name in config.networks}
    shape = (config.data.size, config.data.size, 1)
    shapes = jax.eval_shape(
        lambda: {name: first_variables(config, name, model, shape) for name, model in models.items()}
    )
    variables = checkpoints.restore_networks(step, shapes)
    return Restored(workdir, config, step, models, variables, metadata)


def _imported(folder: Path) -> Restored:
    """Imported weights as the best checkpoint of a run that stopped at step 0."""
    variables, about = load_weights(folder)
    if "head" not in variables["params"]:
        raise CheckpointError(
            f"{folder} holds {about.model} without a head, which predicts nothing\n"
            f"train one from it: --config.init_from={folder}"
        )
    if about.fresh:
        raise CheckpointError(
            f"{folder} holds {about.model} without {first_ten(about.fresh)}, which predicts nothing\n"
            f"train it: --config.init_from={folder}"
        )
    data = asdict(Recipe(size=about.size)) | {"mean": about.mean, "std": about.std}
    networks = {IMPORTED: {"model": about.model, "shared_stages": None}}
    config = ConfigDict({"networks": networks, "data": data, "batch_size": 16})
    check_films(config.data)
    model = create_model(about.model, len(about.findings))
    wanted = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, about.size, about.size, 1)))
    stem = stem_of(about.model, wanted["params"])
    if "offset" in stem_of(about.model, variables["params"]):
        stem["offset"] = stem["kernel"]
    check_fit(wanted, variables, str(folder))
    metadata = {"findings": list(about.findings), "groups": None, "history": []}
    return Restored(folder, config, 0, {IMPORTED: model}, {IMPORTED: variables}, metadata)


def check_films(data: ConfigDict) -> None:
    """Checks the film fields of a workdir's config before anything is allocated or compiled.

    Raises:
      ValueError: a field has a value that no film can have.
    """
    if type(data.size) is not int or not 0 < data.size <= MAX_SIDE or type(data.clean) is not bool:
        raise ValueError(f"data.size is {data.size!r}, data.clean {data.clean!r}")
    if data.clean:
        recipe_of(data).check()
    if not (math.isfinite(data.mean) and math.isfinite(data.std) and data.std > 0):
        raise ValueError(f"data.mean is {data.mean!r}, data.std {data.std!r}")


def groups_in(metadata: Metadata) -> Groups | None:
    """The groups of findings that a checkpoint's branches were made for; None where it has no branches."""
    return metadata["groups"] and by_names(metadata["groups"], findings_in(metadata))


def findings_in(metadata: Metadata) -> tuple[str, ...]:
    """The findings a checkpoint's networks predict; an old checkpoint without names predicts ChestX-ray14's.

    Raises:
      ValueError: they are not names of findings.
    """
    return read_findings(metadata.get("findings"))


def restore_others(workdir: str, field: str, config: ConfigDict) -> Restored:
    """The best checkpoint of another run's workdir, named by the config's `field`, for use on this run's films.

    Raises:
      ConfigError: the other run saw films of another size, or cleaned ones where these are not.
      CheckpointError: as for `restore_best`.
    """
    try:
        other = restore_best(Path(workdir).expanduser())
    except CheckpointError as error:
        raise CheckpointError(f"config.{field}: {error}") from error
    theirs, ours = recipe_of(other.config.data), recipe_of(config.data)
    for name in ("size", "clean", *(CLEANING if ours.clean else ())):
        if getattr(theirs, name) != getattr(ours, name):
            raise ConfigError(
                f"config.{field}: {workdir} was trained with data.{name}={getattr(theirs, name)}, this run has "
                f"data.{name}={getattr(ours, name)}; give both the same"
            )
    return other
