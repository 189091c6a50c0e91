"""The config that made a workdir: written when a run claims the workdir, read by every later command."""

import json
from pathlib import Path
from typing import Any, Final

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from chexjax.configs import common
from chexjax.errors import CheckpointError, first_ten, reason_of
from chexjax.files import write_whole

CONFIG: Final = "config.json"
CHECKPOINTS: Final = "checkpoints"
# What may change when a run resumes: where things are and how they are shown, not what is computed.
MAY_CHANGE: Final = (
    "data.dir",
    "data.cache",
    "data.threads",
    "data.lists",
    "data.residence",
    "steps_per_call",
    "log_every",
    "views",
    "teacher",
)
# What may also change if no learning rate depends on it.
LENGTH: Final = ("epochs", "max_steps")


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json` into a workdir; if it holds checkpoints, checks that this config made them.

    A run whose length has changed (where allowed) gets the new config.

    Raises:
      CheckpointError: another config made them, or the workdir cannot be written.
    """
    if any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*")):
        check_config(workdir, config)
        old = read_config(workdir)
        if all(old.get(name) == config.get(name) for name in LENGTH):
            return
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write_whole(path, json.dumps(_plain(config), indent=2))
    except OSError as error:
        raise CheckpointError(f"{workdir} cannot be used as a workdir: {error.strerror}") from None


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Checks that `config` made `workdir`, apart from the fields in `MAY_CHANGE`.

    A run with constant learning rates, or with warm restarts, may become longer or shorter: no step so far depends on
    its length.

    Raises:
      CheckpointError: it did not (the fields that differ are named), or the workdir holds no config.
    """
    old, new = (
        flatten_dict(fields, sep=".", keep_empty_nodes=True)
        for fields in (read_config(workdir).to_dict(), _plain(config))
    )
    schedules = {
        key: value
        for key, value in new.items()
        if key.endswith(".schedule") and value != "constant" and not new.get(key.replace(".schedule", ".restart_steps"))
    }
    free = MAY_CHANGE if schedules else (*MAY_CHANGE, *LENGTH)
    differing = {
        key: f"{key}: {old.get(key, 'absent')!r} then, {new.get(key, 'absent')!r} now"
        for key in sorted(old.keys() | new.keys())
        if key not in free and old.get(key, "absent") != new.get(key, "absent")
    }
    if not differing:
        return
    way = "give the run a new --workdir, or the old config"
    if old.keys().isdisjoint(differing):
        way = f"{CONFIG} lacks what every run writes; bring the run's own back, or give the run a new --workdir"
    elif set(differing) <= set(LENGTH):
        (key, schedule), *_ = schedules.items()
        way = (
            f"the learning rate ends with the run, as config.{key} is {schedule}, neither constant nor with "
            f"restart_steps: to train longer, begin anew from these weights, with another --workdir and "
            f"--config.init_from={workdir}"
        )
    raise CheckpointError(
        f"{workdir} was made by another config, which differs in {first_ten(list(differing.values()))}\n{way}"
    )


def _plain(config: ConfigDict) -> dict[str, Any]:
    """Through JSON and back, so a tuple equals the list it becomes in the file."""
    return json.loads(config.to_json())


def read_config(workdir: Path) -> ConfigDict:
    """The config that made a workdir; fields added since then have their defaults.

    Raises:
      CheckpointError: there is none, or it is broken.
    """
    try:
        fields = json.loads((workdir / CONFIG).read_text())
        if not isinstance(fields, dict):
            raise ValueError(f"it holds no fields but {type(fields).__name__}")
        return common.complete(ConfigDict(fields), later_only=True)
    except FileNotFoundError:
        if not workdir.exists():
            raise CheckpointError(f"{workdir} is no workdir: it does not exist") from None
        raise CheckpointError(f"{workdir} is no workdir: it holds no {CONFIG}; train into it first") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{workdir / CONFIG} cannot be read: {reason_of(error)}") from None
