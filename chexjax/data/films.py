"""Opens the films a config asks for: simulated, prepared, or merely found again."""

import hashlib
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from chexjax.data.prepared import Prepared, prepare
from chexjax.data.recipe import cache_of, recipe_of
from chexjax.data.sources.phantom import VERSION, write_films
from chexjax.devices import meet
from chexjax.errors import ConfigError, DataError


def open_films(config: ConfigDict) -> Prepared:
    """The prepared films that `config.data` asks for; simulated, prepared, or merely found again.

    Of several processes the first prepares while the others wait. They need to see the same `data.cache`.

    Raises:
      ConfigError: no such source, or no folder is named.
      DataError: whatever is wrong with the folder.
    """
    if jax.process_index() != 0:
        meet("films are prepared")
    films = _open_films(config)
    if jax.process_index() == 0:
        meet("films are prepared")
    return films


def _open_films(config: ConfigDict) -> Prepared:
    cache = cache_of(config)
    if config.source == "phantom":
        folder = cache / "phantom" / _name(config.phantom)
        if config.dir:
            raise ConfigError(
                f"config.data.dir is {config.dir}, but data.source is phantom, simulated films\n"
                "for real films choose --config=configs/dml.py:chestxray14, or add --config.data.source=chestxray14"
            )
        if not folder.is_dir():
            try:
                write_films(folder, **config.phantom, workers=config.threads)
            except DataError:
                if not folder.is_dir():  # else another run was quicker, with the same films
                    raise
    elif config.source == "chestxray14":
        if not config.dir:
            raise ConfigError("data.source is chestxray14 but no folder is given; add --config.data.dir=NIH_FOLDER")
        folder = Path(config.dir).expanduser()
    else:
        raise ConfigError(f"no data source is called {config.source!r}; there are phantom, chestxray14")
    return prepare(folder, cache / "prepared", recipe_of(config))


def _name(phantom: ConfigDict) -> str:
    """A folder name for simulated films, by all that decides what they show."""
    described = json.dumps([VERSION, phantom.to_dict()], sort_keys=True)
    return f"{phantom.count}-{phantom.size}px-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
