"""What a run's maps were shown to be worth, finding by finding: kept beside its checkpoint, and said beside each map.

`python -m chexjax.explain.check` finds it, and keeps it in `maps.json`. It serves the very checkpoint and network that
it was found with.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from scipy.stats import binomtest

from chexjax.trust.kept import fingerprint
from chexjax.workdir.restore import Restored

MAPS: Final = "maps.json"
BEST: Final = "best"  # the kind of map that the evidence speaks for
USUAL: Final = "cam"  # without evidence
LEAST_CASES: Final = 50  # with boxes, of all findings, from which on one kind of map is preferred to another
LEAST_OF_FINDING: Final = 10


class Pointing(NamedTuple):
    """How many of the cases with boxes were hit: by the maps' peaks, by the film's centre, by maps of new weights.

    The last is a mean over several draws: of the head or of all weights, whichever hit more.
    """

    cases: int
    hits: int
    centre: int
    anew: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval (Wilson's) of the share that the maps hit."""
        if not self.cases:
            return 0.0, 1.0
        found = binomtest(self.hits, self.cases).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @property
    def follows_weights(self) -> bool:
        """Whether the maps hit surely more than those of weights drawn anew."""
        return self.interval[0] * self.cases > self.anew

    @property
    def beats_centre(self) -> bool:
        """Whether they hit surely more than the film's centre does."""
        return self.interval[0] * self.cases > self.centre


ByFinding = Mapping[str, Pointing]


@dataclass(frozen=True)
class Evidence:
    """Of one network: by kind of map and finding."""

    kinds: Mapping[str, ByFinding] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The kind that hits most cases, of those that follow the weights; "cam" of none, or of too few cases."""
        totals = {kind: total(found.values()) for kind, found in self.kinds.items()}
        able = {k: t for k, t in totals.items() if t.cases >= LEAST_CASES and t.follows_weights}
        return max(able, key=lambda kind: able[kind].hits, default=USUAL)

    def note(self, kind: str, finding: str) -> str:
        """What is to be said beside a map of a finding; "" where it points, or was never checked."""
        if kind not in self.kinds:
            return ""
        own = self.kinds[kind].get(finding, Pointing(0, 0, 0, 0.0))
        if own.cases < LEAST_OF_FINDING:
            return "map not tested: too few boxes of this finding"
        if own.beats_centre:
            return ""
        shares = f"{own.hits / own.cases:.0%} of {own.cases} boxes hit, by the centre {own.centre / own.cases:.0%}"
        return f"map not shown to point better than the film's centre ({shares})"


def total(parts: Any) -> Pointing:
    """Of several findings, all cases together."""
    found = list(parts)
    return Pointing(*(sum(part[k] for part in found) for k in range(4))) if found else Pointing(0, 0, 0, 0.0)


def to_json(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """By network; what `from_json` takes back."""
    return {
        name: {kind: {finding: list(own) for finding, own in found.items()} for kind, found in each.kinds.items()}
        for name, each in evidence.items()
    }


def from_json(found: Mapping[str, Any]) -> dict[str, Evidence]:
    """Checked: any other value than `to_json` gives raises ValueError, TypeError or AttributeError."""
    return {
        name: Evidence(
            {
                kind: {finding: _checked(*own) for finding, own in by_finding.items()}
                for kind, by_finding in kinds.items()
            }
        )
        for name, kinds in found.items()
    }


def read_evidence(restored: Restored) -> Evidence:
    """What was found of this checkpoint's one network; empty without it, of several networks, or of a broken file."""
    if len(restored.models) != 1:
        return Evidence()
    (name,) = restored.models
    try:
        found = json.loads((restored.workdir / MAPS).read_text(encoding="utf-8"))
        if found["checkpoint"] != fingerprint(restored):
            return Evidence()
        return from_json(found["pointing"]).get(name, Evidence())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Evidence()


def _checked(cases: int, hits: int, centre: int, anew: float) -> Pointing:
    counts = (cases, hits, centre)
    if not (all(type(count) is int for count in counts) and min(counts) >= 0 and max(*counts, anew) <= cases):
        raise ValueError("no such counts")
    return Pointing(cases, hits, centre, float(anew))
