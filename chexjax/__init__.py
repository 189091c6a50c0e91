"""chexjax: train, compare and explain chest-film classifiers on JAX.

The public names, each loaded when it is first used:

- `create_model`: a network by its name, a `flax.linen` module.
- `Classifier`: the networks of a run, applied to films of any kind.
- `remove_artifacts`: removes bright objects from films, by scan line.
- `FINDINGS`: the 14 findings of ChestX-ray14.

The commands are `chexjax --help`; in Python each is a module of its own.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from chexjax.findings import FINDINGS
    from chexjax.models import create_model
    from chexjax.predict import Classifier
    from chexjax.scanline import remove_artifacts

__all__ = ["FINDINGS", "Classifier", "__version__", "create_model", "remove_artifacts"]

__version__ = "0.2.0"

_HOMES: Final = {
    "FINDINGS": "chexjax.findings",
    "Classifier": "chexjax.predict",
    "create_model": "chexjax.models",
    "remove_artifacts": "chexjax.scanline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chexjax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
