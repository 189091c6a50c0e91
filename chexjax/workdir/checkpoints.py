"""Checkpoints of a run: the newest two and the best, each with everything a run needs to resume.

A step folder holds Orbax's `arrays`: `networks` (per network what evaluation applies: `params`, and `batch_stats` or
whatever collections it has) and `training` (what only training needs: optimiser state, step count). Beside
them lie `metadata.json` (the seeds, the data's digest and place, the history of validation figures), a copy of
`config.json`, and the manifest of all these files. Arrays are stored unreplicated, so any number of devices can
restore them.
"""

if __name__ == "__main__":
    from chexjax.commands.verify import main  # without the libraries below: --help needs none
    from chexjax.runtime import run

    run(main)

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from flax.serialization import from_state_dict, to_state_dict
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint import v1 as ocp

from chexjax.data.recipe import find_prepared
from chexjax.errors import CheckpointError, TrainingError, first_ten, interrupts_held, warn
from chexjax.files import PARTIAL, manifest_troubles, write_manifest
from chexjax.workdir.config import CHECKPOINTS, CONFIG, read_config

# In a step folder: Orbax's arrays and, beside them, our own file. The manifest covers both.
ARRAYS: Final = "arrays"
METADATA: Final = "metadata.json"

PyTree = Any
States = dict[str, Any]  # the TrainState of each network
Metadata = dict[str, Any]


class Checkpoints:
    """The checkpoints of a workdir: the newest two, and the best. Only the run that holds the workdir is `writing`.

    A step folder gets its final name once all of it, manifest included, is on disk. A folder that contradicts its
    manifest is skipped with a warning; it is neither the latest nor the best.
    """

    def __init__(self, workdir: Path, writing: bool = False):
        self._folder = workdir / CHECKPOINTS
        if writing and jax.process_index() == 0:
            for path in self._folder.glob("*.*"):  # left by a killed save or removal
                shutil.rmtree(path, ignore_errors=True)
        self._intact = read_intact(self._folder)

    @property
    def latest(self) -> int | None:
        """The last intact step, None in a new workdir.

        Raises:
          CheckpointError: there are checkpoints but all are broken; starting anew would discard them.
        """
        if not self._intact and (broken := step_folders(self._folder)):
            raise CheckpointError(
                f"{self._folder} holds {len(broken)} checkpoints, none of them intact\n"
                "move that folder away to train anew"
            )
        return max(self._intact, default=None)

    @property
    def best(self) -> int:
        """The intact step with the highest mean validation AUROC.

        Raises:
          CheckpointError: there is no validated checkpoint, or none is intact.
        """
        best = best_of({step: metadata["auroc"] for step, metadata in self._intact.items()})
        if best is None:
            what = "no checkpoint" if not self._intact else "no checkpoint that was validated"
            raise CheckpointError(f"{self._folder} holds {what}; train into this workdir first")
        return best

    def save(self, step: int, states: States, auroc: float | None, metadata: Metadata) -> None:
        """Saves unreplicated states under `step`, and removes checkpoints that are no longer needed.

        `auroc` decides which checkpoint is the best; None if the step was not validated.

        Raises:
          TrainingError: the weights are not finite.
          CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
        """
        parts = dict(zip(("networks", "training"), split_states(states), strict=True))
        check_finite(parts, step)
        described = {**metadata, "auroc": auroc, "sha256": {part: digests(tree) for part, tree in parts.items()}}
        partial = self._folder / f"{step}{PARTIAL}"
        try:
            ocp.save_checkpointables(str((partial / ARRAYS).resolve()), parts)
            if jax.process_index() == 0:
                (partial / METADATA).write_text(json.dumps(described))
                shutil.copyfile(self._folder.parent / CONFIG, partial / CONFIG)
                write_manifest(partial)
                _remove(self._folder / str(step))  # a broken checkpoint of the same step
                partial.rename(self._folder / str(step))
        except Exception as error:  # a full disk raises many types: TensorStore's, Orbax's, the system's
            shutil.rmtree(partial, ignore_errors=True)
            reason = str(error.__cause__ or error).splitlines()[0]
            raise CheckpointError(
                f"step {step} cannot be saved to {self._folder}: {reason}\n"
                "earlier checkpoints are untouched; fix this, and the same command resumes from the last one"
            ) from error
        self._intact[step] = json.loads(json.dumps(described))
        keep = to_keep({step: metadata["auroc"] for step, metadata in self._intact.items()})
        self._intact = {step: self._intact[step] for step in keep}
        if jax.process_index() == 0:
            for folder in step_folders(self._folder):
                if int(folder.name) not in keep:
                    _remove(folder)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"step {step} is saved")

    def config(self, step: int) -> ConfigDict:
        """The config that made `step`, from the copy that the manifest covers."""
        return read_config(self._folder / str(step))

    def restore(self, step: int, states: States) -> tuple[States, Metadata]:
        """The states at `step`, in the structure of `states`, and the metadata.

        Raises:
          CheckpointError: the checkpoint does not load, or does not fit the networks; every key that differs is named.
        """
        wanted = dict(zip(("networks", "training"), split_states(states), strict=True))
        loaded = self._load(step, ("networks", "training"))
        check_fit(wanted, loaded, f"{self._folder / str(step)}")
        restored = {}
        for name, state in states.items():
            network, rest = loaded["networks"][name], dict(loaded["training"][name])
            now, average = (network, None) if state.average is None else (rest, network)
            collections = {key: now[key] for key in state.collections}
            rest = {key: value for key, value in rest.items() if key not in collections}
            whole = rest | {"params": now["params"], "collections": collections, "average": average}
            restored[name] = from_state_dict(state, whole)
        return restored, self.metadata(step)

    def metadata(self, step: int) -> Metadata:
        """What was saved beside the arrays at `step`."""
        return self._intact[step]

    def restore_networks(self, step: int, shapes: dict[str, PyTree]) -> dict[str, PyTree]:
        """The variables that evaluation uses, by network; `shapes` comes from `jax.eval_shape`.

        Raises:
          CheckpointError: as for `restore`.
        """
        loaded = self._load(step, ("networks",))["networks"]
        check_fit(shapes, loaded, f"{self._folder / str(step)}")
        return loaded

    def _load(self, step: int, parts: tuple[str, ...]) -> dict[str, PyTree]:
        try:
            path = (self._folder / str(step) / ARRAYS).resolve()
            with interrupts_held():
                loaded = ocp.load_checkpointables(str(path), dict.fromkeys(parts))
            expected = self.metadata(step)["sha256"]
        except Exception as error:  # Orbax wraps every error; the reason is its cause
            reason = repr(error.__cause__ or error).splitlines()[0]
            raise CheckpointError(f"{self._folder / str(step)} does not load: {reason}") from error
        # The manifest covers the files; this checks that Orbax returns the arrays it was given.
        for part in parts:
            found = digests(loaded[part])
            rotten = [f"{part}/{key}" for key, digest in expected[part].items() if found.get(key) != digest]
            if rotten:
                raise CheckpointError(f"{self._folder / str(step)} is not what was saved, {first_ten(rotten)}")
        return loaded


def step_folders(folder: Path) -> list[Path]:
    """The step folders of `folder`, oldest first, whether intact or not."""
    return sorted(
        (path for path in folder.glob("*") if re.fullmatch("[0-9]{1,18}", path.name)), key=lambda path: int(path.name)
    )


def read_intact(folder: Path) -> dict[int, Metadata]:
    """The metadata of the intact steps; warns about the others and what is wrong with them."""
    intact = {}
    for step in step_folders(folder):
        troubles, metadata = manifest_troubles(step), {}
        if not troubles:
            metadata = read_metadata(step / METADATA)
            troubles = [] if metadata else [f"{METADATA} is not valid"]
        if troubles:
            warn(f"the checkpoint {step} is broken and skipped, {first_ten(troubles)}")
        else:
            intact[int(step.name)] = metadata
    return intact


def read_metadata(path: Path) -> Metadata:
    """The metadata of a step; empty if the file holds something else."""
    try:
        metadata = json.loads(path.read_text())
        validated = metadata["auroc"] is None or 0 <= metadata["auroc"] <= 1
        return metadata if validated and isinstance(metadata["sha256"], dict) else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def best_of(aurocs: dict[int, float | None]) -> int | None:
    """The step with the highest AUROC, the earliest of equals; None if none was validated."""
    validated = {step: auroc for step, auroc in aurocs.items() if auroc is not None}
    return max(validated, key=lambda step: (validated[step], -step), default=None)


def to_keep(aurocs: dict[int, float | None]) -> set[int]:
    """The best step and the newest two (the second in case the newest turns out broken)."""
    best = best_of(aurocs)
    return set(sorted(aurocs)[-2:]) | (set() if best is None else {best})


def _remove(folder: Path) -> None:
    """Renames the folder first, so a killed removal leaves nothing that looks like a step."""
    if folder.exists():
        shutil.rmtree(folder.rename(folder.with_name(f"{folder.name}.removed")))


def split_states(states: States) -> tuple[PyTree, PyTree]:
    """What evaluation uses and what only training needs; together the whole state, without duplicates."""
    networks, training = {}, {}
    for name, state in states.items():
        rest = to_state_dict(state)
        now, average = {"params": rest.pop("params"), **rest.pop("collections")}, rest.pop("average")
        networks[name], training[name] = (now, rest) if average is None else (average, rest | now)
    return jax.tree.map(np.asarray, networks), jax.tree.map(np.asarray, training)


def digests(tree: PyTree) -> dict[str, str]:
    """The sha256 of each array's dtype, shape and bytes, by its path."""
    leaves = flatten_dict(to_state_dict(tree), sep="/").items()
    return {
        key: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for key, leaf in leaves
    }


def check_finite(tree: PyTree, step: int) -> None:
    """Refuses weights that are not finite.

    Raises:
      TrainingError: names the arrays concerned.
    """
    leaves = flatten_dict(to_state_dict(tree), sep="/").items()
    broken = [key for key, leaf in leaves if not np.isfinite(np.asarray(leaf, np.float64)).all()]
    if broken:
        raise TrainingError(f"step {step} is not saved: not finite: {first_ten(broken)}")


def check_fit(wanted: PyTree, found: PyTree, where: str) -> None:
    """Compares the names and shapes of two trees of arrays.

    Raises:
      CheckpointError: lists what is missing, unexpected or of another shape.
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
    troubled = [f"{kind} {first_ten(keys)}" for kind, keys in troubles.items() if keys]
    if troubled:
        raise CheckpointError(f"{where} does not fit the networks of the config: " + "; ".join(troubled))


def verify(workdir: Path) -> list[str]:
    """Prints whether each step and the prepared films are intact; returns those that are not.

    The prepared films are looked for in the config's cache.
    """
    folders = step_folders(workdir / CHECKPOINTS)
    if not folders:
        raise CheckpointError(f"{workdir / CHECKPOINTS} holds no checkpoint")
    data = {json.loads((folder / METADATA).read_text())["data"] for folder in folders if not manifest_troubles(folder)}
    broken = []
    for folder in folders + [path for digest in data for path in find_prepared(read_config(workdir).data, digest)]:
        troubles = manifest_troubles(folder)
        print(f"{folder}: {'BROKEN' if troubles else 'intact'}", *troubles, sep="\n  ")
        broken += [str(folder)] if troubles else []
    return broken
