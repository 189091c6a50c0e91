"""How well a run's maps point at boxes, finding by finding: saved beside the checkpoint, stated beside each map.

`python -m chexjax.explain.check` measures it and saves it as `maps.json`. It holds only for the checkpoint and the
network with which it was measured.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from scipy.stats import binomtest

from chexjax.trust.kept import fingerprint
from chexjax.workdir.restore import Restored

MAPS: Final = "maps.json"
BEST: Final = "best"  # the kind of map that the evidence prefers
USUAL: Final = "cam"  # without evidence
UNPROVEN: Final = "place unproven"  # on the picture of a map that has a note
LEAST_CASES: Final = 50  # with boxes, of all findings together; with fewer, no kind of map is preferred
LEAST_OF_FINDING: Final = 10


def share_interval(hits: int, cases: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) without cases."""
    if not cases:
        return 0.0, 1.0
    found = binomtest(hits, cases).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


class Pointing(NamedTuple):
    """How many of the cases with boxes were hit: by the maps' peaks, by the film's centre, by maps of random weights.

    `anew` is a mean over several draws, of the head or of all weights, whichever hit more.
    """

    cases: int
    hits: int
    centre: int
    anew: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the share that the maps hit."""
        return share_interval(self.hits, self.cases)

    @property
    def follows_weights(self) -> bool:
        """Whether the maps hit significantly more cases than those of random weights do."""
        return self.interval[0] * self.cases > self.anew

    @property
    def beats_centre(self) -> bool:
        """Whether the maps hit significantly more cases than the film's centre does."""
        return self.interval[0] * self.cases > self.centre


ByFinding = Mapping[str, Pointing]


@dataclass(frozen=True)
class Evidence:
    """One network's figures, by kind of map and finding."""

    kinds: Mapping[str, ByFinding] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """Among the kinds that follow the weights, the one that hits most cases; "cam" if there is none."""
        totals = {kind: total(found.values()) for kind, found in self.kinds.items()}
        able = {k: t for k, t in totals.items() if t.cases >= LEAST_CASES and t.follows_weights}
        return max(able, key=lambda kind: able[kind].hits, default=USUAL)

    def note(self, kind: str, finding: str) -> str:
        """The warning beside a finding's map; "" if the map points better than the centre, or was never checked."""
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
    """The cases of several findings together."""
    found = list(parts)
    return Pointing(*(sum(part[k] for part in found) for k in range(4))) if found else Pointing(0, 0, 0, 0.0)


def to_json(evidence: Mapping[str, Evidence]) -> dict[str, Any]:
    """The evidence of each network as JSON; `from_json` is the inverse."""
    return {
        name: {kind: {finding: list(own) for finding, own in found.items()} for kind, found in each.kinds.items()}
        for name, each in evidence.items()
    }


def from_json(found: Mapping[str, Any]) -> dict[str, Evidence]:
    """The inverse of `to_json`; any other value raises ValueError, TypeError or AttributeError."""
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
    """This checkpoint's evidence; empty if there is none, if its file is broken, or if it has several networks."""
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
