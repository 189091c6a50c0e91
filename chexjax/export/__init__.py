"""A workdir's networks as one file that runs without chexjax: StableHLO, ONNX, or a torch state dict.

The names of this package are loaded when they are first used: `--help` needs no JAX.
"""

from typing import TYPE_CHECKING, Final

from chexjax.lazy import lazy

if TYPE_CHECKING:
    from chexjax.export.networks import chosen as chosen
    from chexjax.export.onnx_file import to_onnx as to_onnx
    from chexjax.export.stablehlo import create_program as create_program
    from chexjax.export.stablehlo import pillow_coefficients as pillow_coefficients
    from chexjax.export.stablehlo import shrink as shrink
    from chexjax.export.stablehlo import to_stablehlo as to_stablehlo
    from chexjax.export.torchvision import to_torch as to_torch

_HOMES: Final = {
    "chosen": "networks",
    "create_program": "stablehlo",
    "pillow_coefficients": "stablehlo",
    "shrink": "stablehlo",
    "to_onnx": "onnx_file",
    "to_stablehlo": "stablehlo",
    "to_torch": "torchvision",
}

__getattr__, __dir__ = lazy(__name__, _HOMES)
