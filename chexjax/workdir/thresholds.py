"""The thresholds that a run's evaluation took from its validation films."""

import json
from pathlib import Path
from typing import Final

METRICS: Final = "metrics.json"

# finding -> rule -> threshold: a film is called where its probability is at least the threshold
Thresholds = dict[str, dict[str, float | None]]


def validation_thresholds(workdir: Path, step: int) -> dict[str, Thresholds]:
    """The thresholds of each network and the ensemble, by name, if they belong to the checkpoint of `step`.

    Empty without an evaluation of that step, or where its file is broken. A threshold is None where it is undefined.
    """
    try:
        results = json.loads((workdir / METRICS).read_text(encoding="utf-8"))
        networks = results["networks"] if results["step"] == step else {}
        return {
            name: {
                finding: {rule: _share(value) for rule, value in rules.items()}
                for finding, rules in entry["thresholds"].items()
            }
            for name, entry in networks.items()
        }
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        return {}


def _share(value: float | None) -> float | None:
    return float(value) if value is not None and 0 <= float(value) <= 1 else None
