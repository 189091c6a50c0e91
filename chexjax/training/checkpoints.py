"""Checkpoints of a run, by Orbax: the latest and the best, and in each all that a run needs to go on.

A step folder holds `networks` (per network what evaluation applies: `params` and `batch_stats`), `training` (what only
training needs: the optimiser's memory, the step count), and as metadata the seed, the data's digest and place, and the
history of validation figures. Everything is stored as plain arrays of one device, so that any number of devices can
restore it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from chexjax.errors import CheckpointError, first_ten
from chexjax.training.state import TrainState

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

PyTree = Any
Metadata = dict[str, Any]


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
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(_plain(config), indent=2))
            partial.rename(path)
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
        return ConfigDict(json.loads((workdir / CONFIG).read_text()))
    except FileNotFoundError:
        raise CheckpointError(f"{workdir} is no workdir: it holds no {CONFIG}; train into it first") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{workdir / CONFIG} cannot be read: {error}") from None


class Checkpoints:
    """The checkpoints of a workdir. A context: leaving it waits for the last save.

    Only the one that trains is `writing`: it removes what a killed save left, which a reader must not, lest it remove
    the save that another process is in the middle of.
    """

    def __init__(self, workdir: Path, writing: bool = False):
        self._folder = workdir / CHECKPOINTS
        policies = ocp.training.preservation_policies
        keep = [policies.LatestN(1), policies.BestN(get_metric_fn=lambda metrics: metrics["auroc"], n=1)]
        self._orbax = ocp.training.Checkpointer(
            str(self._folder.resolve()),
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=writing,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The last step saved, None in a new workdir."""
        return max((checkpoint.step for checkpoint in self._whole()), default=None)

    @property
    def best(self) -> int:
        """The step with the highest mean validation AUROC.

        Raises:
          CheckpointError: nothing has been saved yet.
        """
        saved = self._whole()
        if not saved:
            raise CheckpointError(f"{self._folder} holds no checkpoint; train into this workdir first")
        return max(saved, key=lambda checkpoint: (checkpoint.metrics["auroc"], -checkpoint.step)).step

    def _whole(self) -> list[Any]:
        """Orbax also lists a step folder that is empty; such a one has no metrics."""
        return [checkpoint for checkpoint in self._orbax.checkpoints if checkpoint.metrics]

    def save(self, step: int, states: dict[str, TrainState], auroc: float, metadata: Metadata) -> None:
        """Saves unreplicated states under `step`; `auroc` decides which checkpoint is the best."""
        networks, training = split_states(states)
        parts = {"networks": networks, "training": training}
        described = {**metadata, "sha256": {part: digests(tree) for part, tree in parts.items()}}
        try:
            saved = self._orbax.save_checkpointables(step, parts, metrics={"auroc": auroc}, custom_metadata=described)
        except OSError as error:
            raise CheckpointError(f"step {step} cannot be saved to {self._folder}: {error}") from error
        # Orbax skips a step that is not newer than the last without a word; a run that goes on never asks for one.
        if not saved:
            raise CheckpointError(f"{self._folder}: step {step} was not saved; the latest step is {self.latest}")

    def restore(self, step: int, states: dict[str, TrainState]) -> tuple[dict[str, TrainState], Metadata]:
        """The states at `step`, shaped as `states`, and the metadata.

        Raises:
          CheckpointError: the checkpoint does not load, or does not fit the networks; every key that does not is told.
        """
        wanted = dict(zip(("networks", "training"), split_states(states), strict=True))
        loaded = self._load(step, ("networks", "training"))
        check_fit(wanted, loaded, f"{self._folder / str(step)}")
        restored = {}
        for name, state in states.items():
            network = loaded["networks"][name]
            network = {**network, "average": None} if state.average is None else {"average": network}
            restored[name] = from_state_dict(state, loaded["training"][name] | network)
        return restored, self.metadata(step)

    def metadata(self, step: int) -> Metadata:
        """What was saved beside the arrays at `step`."""
        return self._orbax.checkpointables_metadata(step).custom_metadata

    def restore_networks(self, step: int, shapes: dict[str, PyTree]) -> dict[str, PyTree]:
        """The variables that evaluation applies, per network; `shapes` is what `jax.eval_shape` gives of them.

        Raises:
          CheckpointError: as for `restore`.
        """
        loaded = self._load(step, ("networks",))["networks"]
        check_fit(shapes, loaded, f"{self._folder / str(step)}")
        return loaded

    def _load(self, step: int, parts: tuple[str, ...]) -> dict[str, PyTree]:
        try:
            loaded = self._orbax.load_checkpointables(step, dict.fromkeys(parts))
            expected = self.metadata(step)["sha256"]
        except Exception as error:  # Orbax wraps whatever goes wrong; the reason is the cause
            reason = repr(error.__cause__ or error).splitlines()[0]
            raise CheckpointError(f"{self._folder / str(step)} does not load: {reason}") from error
        # Orbax restores data with a flipped bit without a word (9 flips of 48 gave other weights).
        for part in parts:
            found = digests(loaded[part])
            rotten = [f"{part}/{key}" for key, digest in expected[part].items() if found.get(key) != digest]
            if rotten:
                raise CheckpointError(f"{self._folder / str(step)} is not what was saved, {first_ten(rotten)}")
        return loaded


def split_states(states: dict[str, TrainState]) -> tuple[PyTree, PyTree]:
    """What evaluation applies, and what only training needs; together the whole state, nothing twice."""
    networks, training = {}, {}
    for name, state in states.items():
        rest = to_state_dict(state)
        average = rest.pop("average")
        if average is None:
            average = {key: rest.pop(key) for key in ("params", "batch_stats")}
        networks[name], training[name] = average, rest
    return jax.tree.map(np.asarray, networks), jax.tree.map(np.asarray, training)


def digests(tree: PyTree) -> dict[str, str]:
    """The sha256 of each array's dtype, shape and bytes, by its path."""
    leaves = flatten_dict(to_state_dict(tree), sep="/").items()
    return {
        key: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for key, leaf in leaves
    }


def check_fit(wanted: PyTree, found: PyTree, where: str) -> None:
    """Compares names and shapes of two trees of arrays.

    Raises:
      CheckpointError: lists what is missing, what is unexpected, and what has another shape.
    """
    want, have = (
        {key: tuple(leaf.shape) for key, leaf in flatten_dict(to_state_dict(tree), sep="/").items()}
        for tree in (wanted, found)
    )
    troubles = {
        "missing": [key for key in want if key not in have],
        "unexpected": [key for key in have if key not in want],
        "misshaped": [f"{k} {have[k]} for {want[k]}" for k in want if k in have and have[k] != want[k]],
    }
    told = [f"{kind} {first_ten(keys)}" for kind, keys in troubles.items() if keys]
    if told:
        raise CheckpointError(f"{where} does not fit the networks of the config: " + "; ".join(told))
