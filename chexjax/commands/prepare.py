"""Prepares films once: reads and checks a source's tables, cleans and shrinks its films, writes them as ArrayRecord.

A folder in the NIH's layout is the default; --source, --table and --sources read other data sets.

    python -m chexjax.data.prepared --source=chestxray14 --dir=NIH_FOLDER --out=DIR --size=256 --clean
"""

import sys
from dataclasses import fields
from typing import Any

from absl import flags

from chexjax.data.sources import SOURCES
from chexjax.errors import ConfigError, command
from chexjax.files import folder_path
from chexjax.runtime import cache_folder, parse


@command
def main() -> None:
    """The command line: prepares a set, and prints its folder and its content."""
    values = flags.FlagValues()
    flags.DEFINE_enum("source", "chestxray14", list(SOURCES), "What lies in the folder.", flag_values=values)
    flags.DEFINE_string("dir", None, "The unpacked folder, or one of simulated films.", flag_values=values)
    flags.DEFINE_string("table", "", "The label table, where it is not in --dir.", flag_values=values)
    flags.DEFINE_string("sources", "", "Several: NAME=FOLDER,NAME=FOLDER=WEIGHT.", flag_values=values)
    flags.DEFINE_string("findings", "", "Which findings, in which order: A,B,C.", flag_values=values)
    flags.DEFINE_string("uncertain", "", "What -1 means: ignore, zero, one, a number.", flag_values=values)
    flags.DEFINE_enum("films", "frontal", ["frontal", "all"], "Which views.", flag_values=values)
    flags.DEFINE_string("out", None, "Where runs find them: their data.cache.", flag_values=values)
    flags.DEFINE_integer("size", 256, "Side of the prepared films, 32 to 4096 pixels.", flag_values=values)
    flags.DEFINE_enum("enlarge", "bicubic", ["bicubic", "area"], "How smaller films are enlarged.", flag_values=values)
    flags.DEFINE_bool("clean", False, "Remove bright artefacts by scan line, before shrinking.", flag_values=values)
    flags.DEFINE_integer("threshold", 50, "Cleaning: least jump, 1 to 255 grey levels.", flag_values=values)
    flags.DEFINE_integer("max_width", 40, "Cleaning: the widest object, in pixels.", flag_values=values)
    flags.DEFINE_integer("edge_span", 1, "Cleaning: pixels over which a jump may ramp.", flag_values=values)
    flags.DEFINE_string("axes", "rows", "Cleaning: rows, columns, rows,columns or columns,rows.", flag_values=values)
    flags.DEFINE_bool("spare_wide", False, "Cleaning: leave too wide objects wholly alone.", flag_values=values)
    flags.DEFINE_string("split", "official", "official, arnoweng, folds or random.", flag_values=values)
    flags.DEFINE_string("lists", "", "The folder of the split's lists; --dir by default.", flag_values=values)
    flags.DEFINE_float("val_fraction", 0.1, "Share of train_val patients held out.", 0.0, 1.0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Which patients are held out.", flag_values=values)
    flags.DEFINE_bool("skip_unreadable", False, "Go on without unreadable films; list them.", flag_values=values)
    flags.DEFINE_alias("skip-unreadable", "skip_unreadable", flag_values=values)
    if rest := parse(sys.argv, values, __doc__):
        raise ConfigError(f"unexpected argument {rest[0]}: options are written --name=value")
    if not (values.dir or values.sources):
        raise ConfigError(
            "usage: python -m chexjax.data.prepared --source=NAME --dir=FOLDER [--out=DIR]; --help says more"
        )

    from ml_collections import ConfigDict

    from chexjax.data.prepared import prepare_source
    from chexjax.data.recipe import Recipe, prepared_below, recipe_from_flags
    from chexjax.devices import find_devices

    names = {field.name: "seed" if field.name == "split_seed" else field.name for field in fields(Recipe)}
    given: dict[str, Any] = {name: values[flag].value for name, flag in names.items()}
    recipe = recipe_from_flags(given)
    also = {
        name: values[name].value for name in ("source", "dir", "table", "sources", "findings", "uncertain", "films")
    }
    if also["source"] == "phantom":
        also["source"] = "nih"  # a folder with simulated films
    find_devices()
    out = folder_path(values.out, "--out") if values.out else cache_folder()
    prepared = prepare_source(ConfigDict({**given, **also}), prepared_below(out), recipe)
    print(prepared.summary())
    print(f"prepared films: {prepared.path}")
    fields_of = {"cache": values.out, "dir": values.dir, "sources": values.sources}
    options = " ".join(f"--config.data.{name}={value}" for name, value in fields_of.items() if value)
    print(f"a run finds them by {options}, with the same options")
