"""Tests whether a run's maps show what its networks have learned, against control maps that ignore the film.

    chexjax check-maps --checkpoint=WORKDIR [--maps=cam,fine] [--cases=100] [--boxes=FOLDER [--exclude=CSV]]

A case is a finding on a test film, with its boxes if it has any. Each kind of map gets three tests:

- Pointing: the share of cases with boxes in which the map's peak lies in one.
- New weights: the rank correlation (magnitude) of the map with that of the same network after its head, or all its
  weights, are drawn again (Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018). A map that hardly changes
  does not show what was learned.
- Removal: the finding's probability, relative to that on the whole film, after the most important and after the least
  important part is removed; the mean over 10, 30, 50, 70 and 90 % of the film. Removed parts are filled in from their
  surroundings, so that their outlines reveal nothing (Rong et al., "A consistent and efficient evaluation strategy for
  attribution methods", ICML 2022: ROAD).

The cases are findings on the run's own test films or, with --boxes, those of another folder in the NIH's layout that
have boxes. CSV names a film in its first column and, in its second, the part of the run's split that the film's
patient was in; patients of train and val are left out.

The table is printed and saved as WORKDIR/maps.json; the report of the run's next evaluation shows it. With 50 boxes or
more, predict and the window show by default the kind of map that hits most boxes, if that is significantly more than
with new weights; where a finding's maps hit no more boxes than the film's centre does, they say so beside the map.
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
    flags.DEFINE_list("maps", ["cam", "fine"], f"Of {MAPS}.", flag_values=values)
    flags.DEFINE_integer("cases", 100, "Findings on films, at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("boxes", None, "A folder in the NIH's layout, with boxes.", flag_values=values)
    flags.DEFINE_string("exclude", None, "A CSV of films that were learned from.", flag_values=values)
    if parse(sys.argv, values, __doc__) or not values.checkpoint:
        raise ConfigError("usage: python -m chexjax.explain.check --checkpoint=WORKDIR [--maps=cam,fine]; --help")
    if values.exclude and not values.boxes:
        raise ConfigError("--exclude says which films of --boxes=FOLDER are left out; no folder is given")

    from chexjax.data.films import open_films
    from chexjax.devices import find_devices
    from chexjax.evaluation.tables import Table, as_text
    from chexjax.explain import check
    from chexjax.explain.evidence import MAPS as MAPS_FILE
    from chexjax.explain.evidence import to_json
    from chexjax.trust.kept import fingerprint
    from chexjax.workdir.restore import restore_best

    find_devices()
    restored = restore_best(Path(values.checkpoint).expanduser())
    if values.boxes:
        exclude = Path(values.exclude).expanduser() if values.exclude else None
        cases = check.find_boxes(Path(values.boxes).expanduser(), restored, values.cases, exclude)
    elif "data" not in restored.metadata:
        raise ConfigError(
            f"{restored.workdir} holds imported weights, which have no test films; name others with --boxes=FOLDER"
        )
    else:
        cases = check.find_cases(open_films(restored.config.data, restored.metadata["data"]), values.cases)
    found, evidence = check.check_maps(restored, cases, values.maps)
    print(as_text(Table("", *check.maps_table(found))))
    print(f"{len(cases.findings)} cases; a map should do better than the two controls, and change with the weights")
    for name, each in evidence.items():
        for finding in restored.findings:
            if note := each.note(each.best, finding):
                print(f"{name}, {each.best}, {finding}: {note}")
    kept = {"step": restored.step, "cases": len(cases.findings), "maps": found}
    kept |= {"checkpoint": fingerprint(restored), "pointing": to_json(evidence)}
    write_whole(restored.workdir / MAPS_FILE, json.dumps(kept, indent=1, allow_nan=False))
