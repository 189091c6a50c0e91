"""Opens the films a config asks for: simulated, prepared, or merely found again."""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared, is_nih_alone, prepare_source
from chexjax.data.recipe import cache_of, recipe_of
from chexjax.data.sources.splits import FOLDS, folds_csv
from chexjax.devices import meet
from chexjax.files import write_whole


def open_films(config: ConfigDict) -> Prepared:
    """The prepared films that `config.data` asks for; simulated, prepared, or merely found again.

    Of several processes the first prepares while the others wait. They need to see the same `data.cache`.

    Raises:
      ConfigError: no such source, or no folder is named.
      DataError: whatever is wrong with the folder.
    """
    first = jax.process_index() == 0
    if not first:
        meet("films are prepared")
    films = prepare_source(config, cache_of(config) / "prepared", recipe_of(config), progress=first)
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
