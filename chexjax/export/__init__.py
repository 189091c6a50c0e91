"""A workdir's networks as one file that runs without chexjax: StableHLO, ONNX, or a torchvision state dict."""

from chexjax.export.networks import chosen
from chexjax.export.onnx_file import to_onnx
from chexjax.export.stablehlo import create_program, pillow_coefficients, shrink, to_stablehlo
from chexjax.export.torchvision import to_torch

__all__ = ["chosen", "create_program", "pillow_coefficients", "shrink", "to_onnx", "to_stablehlo", "to_torch"]
