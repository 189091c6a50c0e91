"""A run's best checkpoint on another data set: the whole report, on the findings that both have.

    python -m chexjax.evaluation.evaluate --checkpoint=WORKDIR --source=NAME --dir=FOLDER --out=DIR
        [--table=FILE.csv] [--split=test] [--uncertain=ignore] [--skip-unreadable]

The sources are those of `chexjax.data.sources`; `table` is any folder with a CSV file, `--sources=NAME=FOLDER,...`
takes several. Films are prepared as the checkpoint's were (`size`, `clean`). Labels that are not known are left out,
finding by finding. A label wider than any output (VinDr's "Nodule/Mass") is evaluated by the highest of the
outputs that it covers, and named so. Films of patients that the run was trained on are left out, too, and counted.

Two sets of thresholds are used: those of the run's own validation, unchanged, and those at which a network calls as
many films as have the finding here, for a site that knows its prevalence but has no labels to choose thresholds by.
"""

import sys
from typing import Final

from absl import flags

from chexjax.data.sources import SOURCES
from chexjax.errors import ConfigError, command
from chexjax.files import local_path
from chexjax.runtime import parse

SPLITS: Final = ("all", "train", "val", "test")


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir of a run, or imported weights.", flag_values=values)
    flags.DEFINE_enum("source", "chestxray14", list(SOURCES), "What lies in --dir.", flag_values=values)
    flags.DEFINE_string("dir", "", "The folder of the films.", flag_values=values)
    flags.DEFINE_string("table", "", "The label table, where it is not in --dir.", flag_values=values)
    flags.DEFINE_string("sources", "", "Several: NAME=FOLDER,NAME=FOLDER.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder of the report.", flag_values=values)
    flags.DEFINE_enum("split", "all", list(SPLITS), "All films, or a part by the source's lists.", flag_values=values)
    flags.DEFINE_string("lists", "", "The folder of these lists; --dir by default.", flag_values=values)
    flags.DEFINE_string(
        "uncertain", "", "What -1 means: ignore, zero, one or a number; by default as in the run.", flag_values=values
    )
    flags.DEFINE_enum("films", "frontal", ["frontal", "all"], "Which views.", flag_values=values)
    flags.DEFINE_string("cache", "", "Where prepared films are kept.", flag_values=values)
    flags.DEFINE_integer("threads", 2, "That read films.", 1, 1024, flag_values=values)
    flags.DEFINE_bool("skip_unreadable", False, "Go on without unreadable films; list them.", flag_values=values)
    flags.DEFINE_alias("skip-unreadable", "skip_unreadable", flag_values=values)
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    usage = "usage: python -m chexjax.evaluation.evaluate --checkpoint=WORKDIR --source=NAME --dir=FOLDER --out=DIR"
    if missing := [name for name in ("checkpoint", "out") if not values[name].value]:
        raise ConfigError(f"no --{missing[0]} is given\n{usage}")
    if not (values.dir or values.sources):
        raise ConfigError(f"no --dir is given, the folder of the films\n{usage}")

    from chexjax.devices import find_devices
    from chexjax.evaluation.evaluate import data_of, evaluate
    from chexjax.evaluation.tables import as_text, auroc_text, confusion_table

    find_devices()
    names = ("table", "sources", "lists", "uncertain", "films", "cache", "threads", "skip_unreadable")
    # A folder of simulated films has the NIH's layout; the source `phantom` would draw new ones.
    source = "nih" if values.source == "phantom" else values.source
    data = data_of(source, values.dir, **{name: values[name].value for name in names})
    out = local_path(values.out, "--out")
    found = evaluate(local_path(values.checkpoint, "--checkpoint"), data, out, values.split)
    findings = list(found["known"])
    print(f"\n{auroc_text(found, findings)}\n")
    for name, entry in found["networks"].items():
        print(f"{as_text(confusion_table(name, entry, findings))}\n")
    print(f"metrics.json, predictions and report.html are in {out}")
