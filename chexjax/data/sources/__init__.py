"""Where films come from: one line a source in `SOURCES`, one module or folder each."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ml_collections import ConfigDict

from chexjax.errors import ConfigError


def _phantom(config: ConfigDict) -> Path:
    from chexjax.data.sources import phantom  # whoever reads real films need not load the simulator

    return phantom.open_folder(config)


def _nih(config: ConfigDict) -> Path:
    from chexjax.data.sources import nih

    return nih.open_folder(config)


# A new source is a module here with `open_folder(config.data) -> Path`, and one line.
SOURCES: Final[dict[str, Callable[[ConfigDict], Path]]] = {"phantom": _phantom, "chestxray14": _nih}


def open_folder(config: ConfigDict) -> Path:
    """The folder of the films that `config.data.source` names, in the NIH's layout; simulated first if need be.

    Raises:
      ConfigError: no source has that name, or `data.dir` does not go with it.
      DataError: the folder cannot be made.
    """
    if config.source not in SOURCES:
        raise ConfigError(f"no data source is called {config.source!r}; there are {', '.join(SOURCES)}")
    return SOURCES[config.source](config)
