"""chexjax: train, compare and explain chest-film classifiers on JAX.

The public names, each loaded when it is first used:

- `create_model`: a network by its name, a `flax.linen` module.
- `Classifier`: the networks of a run, applied to films of any kind.
- `remove_artifacts`: removes bright objects from films, by scan line.
- `FINDINGS`: the 14 findings of ChestX-ray14.

The commands are `chexjax --help`; in Python each is a module of its own.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chexjax.findings import FINDINGS
    from chexjax.models import create_model
    from chexjax.predict import Classifier
    from chexjax.scanline import remove_artifacts

__all__ = ["FINDINGS", "Classifier", "__version__", "create_model", "remove_artifacts"]

__version__ = "0.2.0"


def _end_quietly(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Prints one line for Ctrl-C, instead of a traceback through whatever library was being loaded."""
    if issubclass(kind, KeyboardInterrupt):
        print("error: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m chexjax.NAME`, whose own main is not reached yet
    sys.excepthook = _end_quietly


def __getattr__(name: str) -> Any:
    value: Any
    match name:
        case "FINDINGS":
            from chexjax.findings import FINDINGS as value
        case "Classifier":
            from chexjax.predict import Classifier as value
        case "create_model":
            from chexjax.models import create_model as value
        case "remove_artifacts":
            from chexjax.scanline import remove_artifacts as value
        case _:
            raise AttributeError(f"module 'chexjax' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))
