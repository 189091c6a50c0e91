"""Soft targets out of a predictions CSV: what an ensemble, or another lab's network, says of the training films."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from ml_collections import ConfigDict
from scipy.special import logit

from chexjax.data.prepared import Prepared
from chexjax.errors import ConfigError, DataError
from chexjax.evaluation.predictions import read_predictions, short
from chexjax.models.weight_files import SUFFIXES

# Probabilities nearer to 0 or 1 are moved there: rounded to five digits they are 0 or 1, whose logits are infinite.
CLIP: Final = 1e-6


@dataclass(frozen=True)
class Targets:
    """A table that teaches. `logits` is float32 (films, findings), in the order of the training records; NaN: none."""

    path: Path
    logits: np.ndarray

    @property
    def films(self) -> int:
        """How many films have a target."""
        return int((~np.isnan(self.logits)).any(axis=1).sum())

    @property
    def digest(self) -> str:
        """A sha256 of the targets, by which a run knows them again."""
        return hashlib.sha256(np.ascontiguousarray(self.logits).tobytes()).hexdigest()


def is_table(teacher: str) -> bool:
    """Whether a config's `teacher` is a predictions CSV, and no workdir."""
    path = Path(teacher).expanduser()
    if path.name.lower().endswith(SUFFIXES):  # weights, which have to be imported first
        return False
    return path.is_file() or (path.name.endswith((".csv", ".csv.gz")) and not path.is_dir())


def read_targets(config: ConfigDict, films: Prepared) -> Targets:
    """The targets in `config.teacher` of the training films, joined by film name.

    A film that is not in the table has no target, nor has a finding without a column. A temperature divides logits, so
    probabilities are kept as those, after they are moved into [`CLIP`, 1 - `CLIP`].

    Raises:
      DataError: the table cannot be read, or its numbers are no probabilities.
      ConfigError: it holds none of the training films, or not every finding where `distill.targets` is "softmax".
    """
    try:
        table = read_predictions(Path(config.teacher).expanduser(), films.findings)
    except DataError as error:
        raise DataError(f"config.teacher: {error}") from error
    if not table.are_probabilities:
        low, high = table.probabilities.min(), table.probabilities.max()
        raise DataError(
            f"config.teacher: {table.path} holds numbers from {low:g} to {high:g}; targets are probabilities"
        )
    if config.distill.targets == "softmax" and table.findings != films.findings:
        missing = ", ".join(finding for finding in films.findings if finding not in table.findings)
        raise ConfigError(
            f"config.distill.targets is softmax, which takes every finding, but {table.path} lacks {missing}\n"
            "add --config.distill.targets=bernoulli"
        )
    rows = {name: row for row, name in enumerate(table.names)}
    names = films.parts["train"].names
    known = [k for k, name in enumerate(names) if name in rows]
    if not known:
        raise ConfigError(
            f"config.teacher: {table.path} holds none of the {len(names):,} training films; its first row is "
            f"{short(table.names[0])}, the first film {short(names[0])}"
        )
    logits = np.full((len(names), len(films.findings)), np.nan, np.float32)
    probabilities = np.clip(table.probabilities[[rows[names[k]] for k in known]], CLIP, 1.0 - CLIP)
    logits[np.ix_(known, [films.findings.index(finding) for finding in table.findings])] = logit(probabilities)
    return Targets(table.path, logits)
