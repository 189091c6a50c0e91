"""The config that made a workdir: written when a run claims it, read by whoever comes after."""

import json
from pathlib import Path
from typing import Any, Final

import jax
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from chexjax.errors import CheckpointError, first_ten, reason_of
from chexjax.files import write_whole

CONFIG: Final = "config.json"
CHECKPOINTS: Final = "checkpoints"
# What may differ when a run goes on: where things lie and how they are shown, not what is computed.
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


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes `config.json` into a workdir; in one that holds checkpoints, checks that this very config made them.

    Raises:
      CheckpointError: another config made them, or the workdir cannot be written.
    """
    if any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*")):
        check_config(workdir, config)
        return
    path = workdir / CONFIG
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write_whole(path, json.dumps(_plain(config), indent=2))
    except OSError as error:
        raise CheckpointError(f"{workdir} cannot be used as a workdir: {error.strerror}") from None


def check_config(workdir: Path, config: ConfigDict) -> None:
    """Checks that `config` made `workdir`, but for what `MAY_CHANGE`.

    Raises:
      CheckpointError: it did not, and the fields that differ are named; or the workdir holds no config.
    """
    old, new = (
        flatten_dict(fields, sep=".", keep_empty_nodes=True)
        for fields in (read_config(workdir).to_dict(), _plain(config))
    )
    differing = [
        f"{key}: {old.get(key, 'absent')!r} then, {new.get(key, 'absent')!r} now"
        for key in sorted(old.keys() | new.keys())
        if key not in MAY_CHANGE and old.get(key, "absent") != new.get(key, "absent")
    ]
    if differing:
        raise CheckpointError(
            f"{workdir} was made by another config, which differs in {first_ten(differing)}\n"
            "give the run a new --workdir, or the old config"
        )


def _plain(config: ConfigDict) -> dict[str, Any]:
    """Through JSON and back, so that a tuple and the list it becomes in the file do not differ."""
    return json.loads(config.to_json())


def read_config(workdir: Path) -> ConfigDict:
    """The config that made a workdir.

    Raises:
      CheckpointError: there is none, or it is broken.
    """
    try:
        fields = json.loads((workdir / CONFIG).read_text())
        if not isinstance(fields, dict):
            raise ValueError(f"it holds no fields but {type(fields).__name__}")
        return ConfigDict(fields)
    except FileNotFoundError:
        raise CheckpointError(f"{workdir} is no workdir: it holds no {CONFIG}; train into it first") from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{workdir / CONFIG} cannot be read: {reason_of(error)}") from None
