"""Removes bright foreign objects (pacemakers, wires, tubes, markers) from films, by scan line.

    python -m chexjax.scanline FILE_OR_FOLDER --out=DIR [--compare]

Along each row, a pixel that is brighter than its left neighbour by --threshold or more begins an object, and the next
one that is darker by as much ends it. An object of at most --max_width pixels becomes the mean of the pixels at its
ends. The exact rule is in `chexjax.scanline`. DIR gets the cleaned films, changed.csv with the share of pixels that
changed, and with --compare a sheet for each film: before, after, difference.
"""

import sys
from pathlib import Path

from absl import flags

from chexjax.errors import ConfigError, command, fail, first_ten, printable_lines
from chexjax.files import folder_path
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("out", None, "The folder for cleaned films, sheets, changed.csv.", flag_values=values)
    flags.DEFINE_boolean("compare", False, "Also draws before, after, difference.", flag_values=values)
    flags.DEFINE_integer("threshold", 50, "The least jump, 1 to 255 grey levels.", flag_values=values)
    flags.DEFINE_integer("max_width", 40, "The widest object, in pixels.", flag_values=values)
    flags.DEFINE_integer("edge_span", 1, "Pixels over which a jump may ramp.", flag_values=values)
    flags.DEFINE_list("axes", ["rows"], "rows, columns, or rows,columns.", flag_values=values)
    flags.DEFINE_boolean("spare_wide", False, "Leaves too wide objects wholly alone.", flag_values=values)
    rest = parse(sys.argv, values, __doc__)
    if len(rest) != 1 or not values.out:
        raise ConfigError("usage: python -m chexjax.scanline FILE_OR_FOLDER --out=DIR [--compare]; --help says more")
    out = folder_path(values.out, "--out")

    from chexjax.data.cleaning import clean_files
    from chexjax.data.recipe import CLEANING, recipe_from_flags
    from chexjax.devices import find_devices

    find_devices()
    options = {name: values[name].value for name in CLEANING}
    recipe = recipe_from_flags({**options, "axes": ",".join(values.axes), "clean": True})
    broken = clean_files(Path(rest[0]), out, recipe.cleaning, values.compare)
    if broken:
        for reason in broken.values():
            print(printable_lines(reason), file=sys.stderr)
        fail(f"not cleaned: {first_ten([str(path) for path in broken])}")
    print(f"cleaned films and changed.csv are in {out}")
