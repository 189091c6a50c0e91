"""Opens the films a config asks for: simulated, prepared, or merely found again."""

import jax
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared, prepare_source
from chexjax.data.recipe import cache_of, recipe_of
from chexjax.devices import meet


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
