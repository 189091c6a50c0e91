"""Opens the films that a config asks for: simulates, prepares, or finds them."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared, is_nih_alone, load, prepare_source
from chexjax.data.recipe import cache_of, find_prepared, prepared_below, recipe_of
from chexjax.data.sources.splits import FOLDS, folds_csv
from chexjax.devices import meet
from chexjax.errors import DataError, first_ten, printable, warn
from chexjax.files import write_whole


def open_films(config: ConfigDict, digest: str = "") -> Prepared:
    """The films of `config.data`, which are simulated and prepared unless they already are.

    Of several processes, the first prepares while the others wait; all must see the same `data.cache`.

    Args:
      digest: of the films in the checkpoint that is resumed or evaluated. If the raw films are gone (45 GB are often
        deleted once prepared), the prepared set with that digest is opened, with a warning.

    Raises:
      ConfigError: unknown source, or no folder given.
      DataError: something is wrong with the folder.
    """
    first = jax.process_index() == 0
    if not first:
        meet("films are prepared")
    try:
        films = prepare_source(config, prepared_below(cache_of(config)), recipe_of(config), progress=first)
    except DataError as error:
        films = _by_digest(config, digest, error)
    if first:
        meet("films are prepared")
    return films


def check_classes(films: Prepared, has_teacher: bool = False) -> None:
    """Warns of findings whose known training labels are all the same: nothing can be learned about them.

    With a teacher (`has_teacher`) its targets can still be learned.

    Raises:
      DataError: that is so of every finding, and there is no teacher.
    """
    labels = films.parts["train"].labels
    lacking = []
    for finding, column in zip(films.findings, labels.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            lacking.append(f"{printable(finding)} (no label is known)")
        elif known.min() == known.max():
            lacking.append(f"{printable(finding)} (all {len(known):,} are {known[0]:g})")
    if not lacking or has_teacher:
        return
    what = f"of one class only in the {len(labels):,} training films: {first_ten(lacking)}"
    if len(lacking) == len(films.findings):
        raise DataError(f"every finding is {what}\nchoose others with --config.data.findings=A,B,C, or other films")
    if jax.process_index() == 0:
        warn(f"{what}\nnothing can be learned about them; --config.data.findings=A,B,C leaves them out")


def write_division(config: ConfigDict, films: Prepared, workdir: Path) -> None:
    """Writes each film's part of the split to `workdir/folds.csv`, unless the NIH's lists define it.

    With `data.split=folds` and `data.lists=WORKDIR`, another run uses the same division.
    """
    if jax.process_index() == 0 and not is_nih_alone(config):
        parts = {name: (part.names, part.patients) for name, part in films.parts.items()}
        write_whole(workdir / FOLDS, folds_csv(parts))


def _by_digest(config: ConfigDict, digest: str, error: DataError) -> Prepared:
    """The prepared films of that digest; raises `error` if there are none."""
    found = find_prepared(config, digest) if digest else []
    if not found:
        kept = f"; nor are there prepared films {digest} in {cache_of(config)}, to do without" if digest else ""
        raise DataError(f"{error}{kept}") from error
    reason = str(error).splitlines()[0]
    try:
        films = load(found[0])
    except DataError as broken:
        if str(broken) == str(error):  # the raw films are there
            raise
        what = str(broken).splitlines()[0]
        raise DataError(f"{what}\n{reason}: bring the folder back first, to prepare them anew") from broken
    if jax.process_index() == 0:
        warn(f"{reason}; going on with the films as they were prepared for the checkpoint, in {films.path}")
    return films
