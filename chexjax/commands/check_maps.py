"""Tests whether a run's maps show what its networks have learned, against control maps that ignore the film.

    python -m chexjax.explain.check --checkpoint=WORKDIR [--maps=cam,grad_cam] [--cases=100]

A case is a finding on a test film, with its boxes if it has any. Each kind of map gets three tests:

- Pointing: the share of cases with boxes in which the map's peak lies in one.
- New weights: the rank correlation (magnitude) of the map with that of the same network after its head, or all its
  weights, are drawn again (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018). A map that hardly changes
  does not show what was learned.
- Removal: the finding's probability, relative to that on the whole film, after the most important and after the least
  important part is removed; the mean over 10, 30, 50, 70 and 90 % of the film. Removed parts are filled in from their
  surroundings, so that their outlines reveal nothing (Rong et al., "A consistent and efficient evaluation strategy for
  attribution methods", ICML 2022: ROAD).

The table is printed and saved as WORKDIR/maps.json; the report of the run's next evaluation shows it.
"""

import json
import sys
from pathlib import Path

from absl import flags

from chexjax.commands.predict import MAPS
from chexjax.errors import ConfigError, command
from chexjax.files import write_whole
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir of a training run.", flag_values=values)
    flags.DEFINE_list("maps", ["cam"], f"Of {MAPS}.", flag_values=values)
    flags.DEFINE_integer("cases", 100, "Findings on films, at most.", lower_bound=1, flag_values=values)
    if parse(sys.argv, values, __doc__) or not values.checkpoint:
        raise ConfigError("usage: python -m chexjax.explain.check --checkpoint=WORKDIR [--maps=cam,grad_cam]; --help")

    from chexjax.data.films import open_films
    from chexjax.devices import find_devices
    from chexjax.evaluation.tables import Table, as_text
    from chexjax.explain import check
    from chexjax.workdir.restore import restore_best

    find_devices()
    restored = restore_best(Path(values.checkpoint).expanduser())
    if "data" not in restored.metadata:
        raise ConfigError(f"{restored.workdir} holds imported weights; maps are checked on a run's own test films")
    cases = check.find_cases(open_films(restored.config.data, restored.metadata["data"]), values.cases)
    found = check.check_maps(restored, cases, values.maps)
    print(as_text(Table("", *check.maps_table(found))))
    print(f"{len(cases.findings)} cases; a map should do better than the two controls, and change with the weights")
    kept = {"step": restored.step, "cases": len(cases.findings), "maps": found}
    write_whole(restored.workdir / check.MAPS, json.dumps(kept, indent=1, allow_nan=False))
