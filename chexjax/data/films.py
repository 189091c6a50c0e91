"""Opens the films a config asks for: simulated, prepared, or merely found again."""

import hashlib
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from chexjax.cache import cache_folder
from chexjax.data.chestxray14 import Prepared, Recipe, prepare
from chexjax.data.phantom import VERSION, write_films
from chexjax.errors import ConfigError, DataError
from chexjax.processes import meet


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


def cache_of(config: ConfigDict) -> Path:
    """Where `config.data` has prepared and simulated films kept."""
    return Path(config.cache).expanduser() if config.cache else cache_folder()


def find_prepared(config: ConfigDict, digest: str) -> list[Path]:
    """The folders below the cache of `config.data` that hold the prepared set of that digest: one or none."""
    return sorted((cache_of(config) / "prepared").glob(f"*/*-{digest}/*"))


def recipe_of(config: ConfigDict) -> Recipe:
    """How `config.data` wants films to be prepared."""
    return Recipe(
        size=config.size,
        clean=config.clean,
        split=config.split,
        lists=config.lists,
        val_fraction=config.val_fraction,
        split_seed=config.split_seed,
        skip_unreadable=config.skip_unreadable,
    )


def _name(phantom: ConfigDict) -> str:
    """A folder name for simulated films, by all that decides what they show."""
    described = json.dumps([VERSION, phantom.to_dict()], sort_keys=True)
    return f"{phantom.count}-{phantom.size}px-{hashlib.sha256(described.encode()).hexdigest()[:8]}"
