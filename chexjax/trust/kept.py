"""What is kept in a workdir for its best checkpoint: calibration, abstain bands, and what the training films look like.

`calibration.json` and `domain.npz` are written when a run is evaluated, and serve the very checkpoint that they were
fitted with. A workdir without them, or whose best checkpoint is another by now, gives an empty `Trust`.
"""

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from chexjax.errors import CheckpointError, printable
from chexjax.files import whole, write_whole
from chexjax.trust.calibration import Calibration
from chexjax.trust.domain import Domain
from chexjax.trust.selective import Bands
from chexjax.workdir.restore import Restored

CALIBRATION: Final = "calibration.json"
DOMAIN: Final = "domain.npz"
_WHOSE: Final = "checkpoint"  # in both files


@dataclass(frozen=True)
class Trust:
    """Parts by network name; calibrations and bands also for the "ensemble" of several. Absent where not fitted.

    `gates` holds, by split, what `evaluation.trust.measure_gate` found of each network's domain.
    """

    calibrations: dict[str, Calibration] = field(default_factory=dict)
    bands: dict[str, Bands] = field(default_factory=dict)
    domains: dict[str, Domain] = field(default_factory=dict)
    gates: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_trust(restored: Restored, trust: Trust) -> None:
    """Writes both files, each whole or not at all."""
    parts = {
        name: {"calibration": calibration.to_json(), "bands": trust.bands[name].to_json()}
        for name, calibration in trust.calibrations.items()
    }
    about = {_WHOSE: fingerprint(restored), "findings": list(restored.findings)}
    found = {**about, "networks": parts, "gates": trust.gates}
    write_whole(restored.workdir / CALIBRATION, json.dumps(found, indent=1, allow_nan=False))
    arrays: dict[str, Any] = {_WHOSE: np.array(fingerprint(restored))}
    for name, domain in trust.domains.items():
        arrays |= {f"{name}/{key}": array for key, array in domain.to_arrays().items()}
    with whole(restored.workdir / DOMAIN) as path, path.open("wb") as file:
        np.savez(file, **arrays)


def read_trust(restored: Restored) -> Trust:
    """What was kept for this very checkpoint.

    Raises:
      CheckpointError: a file holds something else than was written.
    """
    workdir = restored.workdir
    try:
        calibrations, bands, gates = _read_calibration(workdir / CALIBRATION, restored)
        return Trust(calibrations, bands, _read_domains(workdir / DOMAIN, restored), gates)
    except _BROKEN as error:
        raise CheckpointError(
            f"{printable(workdir)}: {CALIBRATION} or {DOMAIN} cannot be read ({type(error).__name__})\n"
            "fit them anew: python -m chexjax.main --workdir=WORKDIR --mode=evaluate"
        ) from None


# What reading something else can end in.
_BROKEN: Final = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError,
    zipfile.BadZipFile, zlib.error, NotImplementedError,
)  # fmt: skip


def _read_calibration(
    path: Path, restored: Restored
) -> tuple[dict[str, Calibration], dict[str, Bands], dict[str, dict[str, Any]]]:
    if not path.exists():
        return {}, {}, {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found[_WHOSE] != fingerprint(restored):
        return {}, {}, {}
    count = len(restored.findings)
    if found["findings"] != list(restored.findings):
        raise ValueError("other findings")
    networks = found["networks"].items()
    gates = found.get("gates", {})  # absent in older workdirs
    if not all(isinstance(gate, dict) for gate in gates.values()):
        raise ValueError("no gates")
    return (
        {name: Calibration.from_json(parts["calibration"], count) for name, parts in networks},
        {name: Bands.from_json(parts["bands"], count) for name, parts in networks},
        gates,
    )


def _read_domains(path: Path, restored: Restored) -> dict[str, Domain]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as file:
        if str(file[_WHOSE]) != fingerprint(restored):
            return {}
        keys = [key.rpartition("/") for key in file.files if key != _WHOSE]
        return {
            name: Domain.from_arrays({key: file[f"{name}/{key}"] for own, _, key in keys if own == name})
            for name in dict.fromkeys(name for name, _, _ in keys)
        }


def fingerprint(restored: Restored) -> str:
    """What tells a checkpoint from any other; imported weights have none that is stored."""
    digests = restored.metadata.get("sha256", {}).get("networks", {})
    return hashlib.sha256(json.dumps([restored.step, digests], sort_keys=True).encode()).hexdigest()
