"""Where films come from: each source is one line in `SOURCES` and a module or folder of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from chexjax.errors import ConfigError, printable

if TYPE_CHECKING:  # --help lists the sources, and needs no NumPy
    from ml_collections import ConfigDict

    from chexjax.data.sources.entries import Entries, Request

# Each loads its module when it is called, so reading one source does not load the other readers.


def _nih(request: "Request") -> "Entries":
    from chexjax.data.sources import nih

    return nih.read(request)


def _table(request: "Request") -> "Entries":
    from chexjax.data.sources import table

    return table.read(request)


def _chexpert(request: "Request") -> "Entries":
    from chexjax.data.sources import chexpert

    return chexpert.read(request)


def _mimic(request: "Request") -> "Entries":
    from chexjax.data.sources import mimic

    return mimic.read(request)


def _padchest(request: "Request") -> "Entries":
    from chexjax.data.sources import padchest

    return padchest.read(request)


def _vindr(request: "Request") -> "Entries":
    from chexjax.data.sources import vindr

    return vindr.read(request)


def _rsna(request: "Request") -> "Entries":
    from chexjax.data.sources import rsna

    return rsna.read(request)


def _openi(request: "Request") -> "Entries":
    from chexjax.data.sources import openi

    return openi.read(request)


# A new source is a module here with `read(request) -> Entries`, and one line.
SOURCES: Final[dict[str, Callable[["Request"], "Entries"]]] = {
    "phantom": _nih,  # simulated films, written in the NIH's layout
    "chestxray14": _nih,
    "nih": _nih,  # the same, by its shorter name
    "table": _table,  # any folder with a CSV file
    "chexpert": _chexpert,
    "mimic": _mimic,  # MIMIC-CXR-JPG
    "padchest": _padchest,
    "vindr": _vindr,  # VinDr-CXR, VinBigData
    "rsna": _rsna,
    "openi": _openi,
}
NIH_LAYOUT: Final = ("phantom", "chestxray14", "nih")


def read_source(source: str, request: "Request") -> "Entries":
    """Reads the entries of a source.

    Raises:
      ConfigError: there is no such source.
      DataError: the folder or a table is missing or broken; see the source's module.
    """
    _check_name(source)
    return SOURCES[source](request)


def open_folder(config: "ConfigDict") -> Path:
    """The folder of the source that `config.data.source` names; simulated films are drawn first if they are missing.

    Raises:
      ConfigError: no source has that name, or `data.dir` does not suit it.
      DataError: the folder cannot be made.
    """
    _check_name(config.source)
    if config.source == "phantom":
        from chexjax.data.sources import phantom  # whoever reads real films need not load the simulator

        return phantom.open_folder(config)
    if not config.dir:
        raise ConfigError(f"data.source is {config.source} but no folder is given; add --config.data.dir=FOLDER")
    return Path(config.dir).expanduser()


def _check_name(source: str) -> None:
    if source not in SOURCES:
        raise ConfigError(f"no data source is called {printable(source)[:80]!r}; there are {', '.join(SOURCES)}")
