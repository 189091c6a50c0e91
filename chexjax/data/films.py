"""Opens the films a config asks for: simulated, prepared, or merely found again."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared, is_nih_alone, load, prepare_source
from chexjax.data.recipe import cache_of, find_prepared, prepared_below, recipe_of
from chexjax.data.sources.splits import FOLDS, folds_csv
from chexjax.devices import meet
from chexjax.errors import DataError, warn
from chexjax.files import write_whole


def open_films(config: ConfigDict, digest: str = "") -> Prepared:
    """The prepared films that `config.data` asks for; simulated, prepared, or merely found again.

    Of several processes the first prepares while the others wait. They need to see the same `data.cache`.

    Args:
      digest: of the films of a checkpoint that is gone on from, or evaluated. Where the raw films are gone, as 45 GB
        may be once they are prepared, the prepared ones of that digest are opened, with a warning.

    Raises:
      ConfigError: no such source, or no folder is named.
      DataError: whatever is wrong with the folder.
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


def write_division(config: ConfigDict, films: Prepared, workdir: Path) -> None:
    """Keeps which film trains, validates and tests in `workdir/folds.csv`, unless the NIH's lists say it all.

    With `data.split=folds` and `data.lists=WORKDIR` another run has the same division.
    """
    if jax.process_index() == 0 and not is_nih_alone(config):
        parts = {name: (part.names, part.patients) for name, part in films.parts.items()}
        write_whole(workdir / FOLDS, folds_csv(parts))


def _by_digest(config: ConfigDict, digest: str, error: DataError) -> Prepared:
    """The prepared films of that digest; raises `error`, which says why there are no others, where there are none."""
    found = find_prepared(config, digest) if digest else []
    if not found:
        kept = f"; nor are there prepared films {digest} in {cache_of(config)}, to do without" if digest else ""
        raise DataError(f"{error}{kept}") from error
    films = load(found[0])
    if jax.process_index() == 0:
        reason = str(error).splitlines()[0]
        warn(f"{reason}; going on with the films as they were prepared for the checkpoint, in {films.path}")
    return films
