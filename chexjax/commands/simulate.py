"""Writes a folder of simulated chest films in the layout of ChestX-ray14.

    python -m chexjax.data.phantom --out=DIR --count=2000 --size=256 --seed=0

Equal seeds give equal films, whatever the number of films or processes. Two folders with the same seed that differ in
one option (no artefacts, say) hold the same films apart from that option.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from chexjax.errors import ConfigError, command, fail
from chexjax.findings import FINDINGS
from chexjax.runtime import parse

if TYPE_CHECKING:
    from chexjax.data.sources.phantom import Film

ARTIFACTS: Final = ("pacemaker", "wires", "tube", "marker")


def _parse(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "The folder to write; new or empty.", flag_values=values)
    flags.DEFINE_integer("count", 2000, "Number of films.", flag_values=values)
    flags.DEFINE_integer("size", 256, "Width and height in pixels, at least 32.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Equal seeds give equal films.", flag_values=values)
    flags.DEFINE_float(
        "rare_share", 0.07, "Share of films with the rarest finding; 0: ChestX-ray14's prevalences.", flag_values=values
    )
    flags.DEFINE_float("artifact_share", 0.2, "Share of films with bright artefacts.", flag_values=values)
    flags.DEFINE_list("artifact_kinds", [*ARTIFACTS], "Artefacts that may occur.", flag_values=values)
    flags.DEFINE_string("cue_finding", None, "A finding that artefacts shall give away.", flag_values=values)
    flags.DEFINE_float("cue_share", 0.9, "Share of its films with artefacts.", flag_values=values)
    flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that draw.", flag_values=values)
    if rest := parse(argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    return values


def _summary(films: Sequence["Film"]) -> str:
    counts = Counter(finding for film in films for finding in film.severities)
    healthy = sum(not film.severities for film in films)
    patients = len({film.patient for film in films})
    test = [film for film in films if film.in_test]
    in_test = Counter(finding for film in test for finding in film.severities)
    lines = [f"{len(films)} films of {patients} patients, {len(test)} films for the test; {healthy} without a finding"]
    lines += [f"  {finding:<20}{counts[finding]:>6}   {in_test[finding]:>5} in the test" for finding in FINDINGS]
    return "\n".join(lines)


@command
def main() -> None:
    """The command line."""
    values = _parse(sys.argv)
    if not values.out:
        fail("--out=DIR is needed: the folder to write")

    from chexjax.data.sources.phantom import plan_films, write_films

    plan: dict[str, Any] = {
        name: values[name].value
        for name in ("count", "seed", "rare_share", "artifact_share", "artifact_kinds", "cue_finding", "cue_share")
    }
    write_films(values.out, size=values.size, workers=values.workers, **plan)
    print(_summary(plan_films(**plan)))
