"""An ONNX file of a workdir's networks: uint8 films of any size in, probabilities and class activation maps out."""

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from jax import export as jax_export

from chexjax.data.recipe import recipe_of
from chexjax.devices import at_precision
from chexjax.errors import ConfigError
from chexjax.export.networks import about, calibration_of, create_explainer
from chexjax.export.onnx_film import prepare
from chexjax.export.onnx_graph import Graph, convert
from chexjax.export.onnx_probabilities import probabilities_of
from chexjax.models.network import ENSEMBLE
from chexjax.predict.classifier import choose_network
from chexjax.workdir.restore import Restored

OPSET: Final = 17  # the oldest with all operators used here; runtimes since 2022 read it
IR: Final = 8  # of the same age
LIMIT: Final = 2**31  # bytes: protobuf's
FILM: Final = "film_"  # prefix of the nodes that prepare films
LAYERS: Final = ("Conv", "MatMul")  # what 8 bits are for


def to_onnx(restored: Restored, network: str = ENSEMBLE, raw: bool = False) -> bytes:
    """The networks as an ONNX file.

    Its input `films` is uint8 (batch, height, width), of any three sizes. Its outputs are `probabilities`, float32
    (batch, findings), and `maps`, float32 (batch, h, w, findings), absent where a network has no class activation map.
    Findings and thresholds are in the file's metadata.

    Args:
      restored: the networks, and the config that says how their films are prepared.
      network: one of them by name; "ensemble" is the mean of the probabilities, and of the maps, of all.
      raw: leaves the probabilities as the networks give them. By default they are calibrated where the workdir's
        evaluation found a calibration.

    Raises:
      ConfigError: no network has that name, onnx is not installed, or the networks do what is not translated.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise ConfigError("--to=onnx needs onnx; pip install 'chexjax[onnx]'") from None
    digest, restored = restored.digest, choose_network(restored, network)
    recipe, calibration = recipe_of(restored.config.data), None if raw else calibration_of(restored)
    graph = Graph(FILM)
    small = prepare(graph, "films", recipe)
    graph.prefix = ""
    (batch,) = jax_export.symbolic_shape("batch")
    program = at_precision("highest", create_explainer(restored))
    logits, *maps = convert(program, graph, small, (batch, recipe.size, recipe.size), np.uint8)
    probabilities = probabilities_of(graph, logits.name, calibration)
    outputs = {"probabilities": (probabilities, (len(restored.findings),))}
    if maps:
        outputs["maps"] = maps[0].name, maps[0].shape[1:]
    for name, (result, _) in outputs.items():
        graph.nodes.append(helper.make_node("Identity", [result], [name]))
    graph.prune([*outputs])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "chexjax",
            [helper.make_tensor_value_info("films", TensorProto.UINT8, ["batch", "height", "width"])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
                for name, (_, shape) in outputs.items()
            ],
            [numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="chexjax",
    )
    known = about(restored, calibration) | {"weights": digest}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in known.items()})
    if model.ByteSize() >= LIMIT:
        raise ConfigError(
            f"the networks {', '.join(restored.models)} are larger than the 2 GiB of an ONNX file; export fewer"
        )
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def to_int8(model: bytes, films: Iterable[np.ndarray]) -> bytes:
    """A file from `to_onnx` with its networks converted to 8 bits by onnxruntime's quantiser.

    Weights have a scale for each channel. Activations have a range for each layer: the mean over `films` of a film's
    lowest and highest value, because the extremes of all films leave too few steps for what is usual. Cleaning,
    shrinking and each network's first layer stay in floating point. An imported stem's offset keeps its norm from being
    folded into it, and its channels' ranges differ a hundredfold.

    Args:
      films: uint8 (height, width) each, like those that the file will be used on; about a hundred will do.

    Raises:
      ConfigError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise ConfigError("--int8 needs onnxruntime; pip install 'chexjax[onnx]'") from None
    import onnx

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.films = iter(films)

        def get_next(self) -> dict[str, np.ndarray] | None:
            film = next(self.films, None)
            return None if film is None else {"films": film[None]}

    with tempfile.TemporaryDirectory() as folder:
        original, fused, result = (Path(folder) / f"{name}.onnx" for name in ("original", "fused", "int8"))
        original.write_bytes(model)
        quant_pre_process(original, fused, skip_symbolic_shape=True)  # norms are folded into convolutions
        nodes = onnx.load(fused).graph.node
        preparing = [node.name for node in nodes if node.name.startswith(FILM)]
        quantize_static(
            fused,
            result,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS],
            nodes_to_exclude=preparing + first_layers(nodes),
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            extra_options={"CalibMovingAverage": True},
        )
        return result.read_bytes()


def first_layers(nodes: Iterable[Any]) -> list[str]:
    """The names of the layers that see the film before any other layer, one a network; `nodes` are in order."""
    names, reached = [], {"films"}
    for node in nodes:
        if reached.isdisjoint(node.input):
            continue
        if node.op_type in LAYERS and not node.name.startswith(FILM):
            names.append(node.name)
        else:
            reached |= set(node.output)
    return names
