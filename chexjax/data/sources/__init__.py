"""Where films come from: one line a source in `SOURCES`, one module or folder each."""

import importlib
from pathlib import Path
from typing import Final

from ml_collections import ConfigDict

from chexjax.errors import ConfigError

# A new source is a module here with `open_folder(config.data) -> Path`, and one line. A module is loaded when it is
# asked for: whoever reads real films need not load the simulator.
SOURCES: Final[dict[str, str]] = {
    "phantom": "chexjax.data.sources.phantom",
    "chestxray14": "chexjax.data.sources.nih",
}


def open_folder(config: ConfigDict) -> Path:
    """The folder of the films that `config.data.source` names, in the NIH's layout; simulated first if need be.

    Raises:
      ConfigError: no source has that name, or `data.dir` does not go with it.
      DataError: the folder cannot be made.
    """
    if config.source not in SOURCES:
        raise ConfigError(f"no data source is called {config.source!r}; there are {', '.join(SOURCES)}")
    return importlib.import_module(SOURCES[config.source]).open_folder(config)
