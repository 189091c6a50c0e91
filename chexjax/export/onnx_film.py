"""The preparation of films as ONNX operators: bright artefacts removed, then shrunk, for films of any height and width.

Both are bit-identical to the preparation in training and prediction.
"""

from typing import Any, Final

import numpy as np

from chexjax.data.recipe import Recipe
from chexjax.export.onnx_graph import Graph
from chexjax.scanline.rule import COLUMNS, NOWHERE

PRECISION: Final = 22  # fractional bits of Pillow's coefficients for 8-bit images
END: Final = np.iinfo(np.int64).max


def prepare(graph: Graph, films: str, recipe: Recipe) -> str:
    """uint8 (batch, height, width) -> uint8 (batch, size, size), according to `recipe`."""
    if recipe.clean:
        films = remove_artifacts(graph, films, recipe)
    return shrink(graph, films, recipe.size, recipe.enlarge)


def shrink(graph: Graph, films: str, size: int, enlarge: str) -> str:
    """uint8 (batch, height, width) -> uint8 (batch, size, size): `recipe.shrink`, bit for bit.

    A product of matrices along the rows, rounded to 8 bits, then one along the columns. float64 holds the sums exactly.
    """
    rows = graph.add("MatMul", graph.cast(films, np.float64), _coefficients(graph, films, 2, size, enlarge))
    down = graph.add("Transpose", _coefficients(graph, films, 1, size, enlarge), perm=[1, 0])
    return graph.cast(_rounded(graph, graph.add("MatMul", down, _rounded(graph, rows))), np.uint8)


def _coefficients(graph: Graph, films: str, axis: int, size: int, enlarge: str) -> str:
    """Pillow's filter along an axis: whole numbers in float64, (extent, size).

    The formulas are those of `stablehlo.pillow_coefficients`; which kernel it is, the extent decides.
    """
    half, one = np.float64(0.5), np.float64(1.0)
    extent = graph.add("Gather", graph.add("Shape", films), _scalar(axis))
    wide = graph.cast(extent, np.float64)
    scale = graph.add("Div", wide, np.float64(size))
    stretch = graph.add("Max", scale, one)
    centres = graph.add("Mul", np.arange(size) + 0.5, scale)
    pixels = graph.cast(graph.add("Range", _scalar(0), extent, _scalar(1)), np.float64)
    pixels = graph.add("Unsqueeze", pixels, _integers(1))
    offsets = graph.add("Div", graph.add("Add", graph.add("Sub", pixels, centres), half), stretch)

    def within(weights: str, reach: float) -> str:
        support = graph.add("Mul", stretch, np.float64(reach))
        first = graph.add("Floor", graph.add("Add", graph.add("Sub", centres, support), half))
        last = graph.add("Floor", graph.add("Add", graph.add("Add", centres, support), half))
        near = graph.add("And", graph.add("GreaterOrEqual", pixels, first), graph.add("Less", pixels, last))
        return graph.add("Where", near, weights, np.float64(0.0))

    inside = graph.add("And", graph.add("Greater", offsets, -half), graph.add("LessOrEqual", offsets, half))
    weights = within(graph.cast(inside, np.float64), 0.5)
    if enlarge == "bicubic":
        smaller = graph.add("Less", wide, np.float64(size))
        weights = graph.add("Where", smaller, within(_cubic(graph, offsets), 2.0), weights)
    total = graph.add("ReduceSum", weights, _integers(0), keepdims=1)
    share = graph.add("Mul", graph.add("Div", weights, total), np.float64(1 << PRECISION))
    nearest = graph.add("Floor", graph.add("Add", graph.add("Abs", share), half))
    return graph.add("Mul", graph.add("Sign", share), nearest)


def _cubic(graph: Graph, offsets: str) -> str:
    """Keys' kernel with a = -1/2."""
    x = graph.add("Abs", offsets)

    def polynomial(*coefficients: float) -> str:
        first, *rest = map(np.float64, coefficients)
        value = graph.add("Add", graph.add("Mul", x, first), rest[0])
        for coefficient in rest[1:]:
            value = graph.add("Add", graph.add("Mul", value, x), coefficient)
        return value

    near, far = polynomial(1.5, -2.5, 0.0, 1.0), polynomial(-0.5, 2.5, -4.0, 2.0)
    beyond = graph.add("Where", graph.add("Less", x, np.float64(2.0)), far, np.float64(0.0))
    return graph.add("Where", graph.add("Less", x, np.float64(1.0)), near, beyond)


def _rounded(graph: Graph, total: str) -> str:
    """Sums of grey levels times the coefficients, as whole grey levels: float64."""
    shifted = graph.add("Mul", graph.add("Add", total, np.float64(1 << (PRECISION - 1))), np.float64(2.0**-PRECISION))
    return graph.add("Min", graph.add("Max", graph.add("Floor", shifted), np.float64(0.0)), np.float64(255.0))


def remove_artifacts(graph: Graph, films: str, recipe: Recipe) -> str:
    """uint8 (batch, height, width) -> the same: `scanline.remove_artifacts` with the recipe's arguments."""
    for axis in recipe.cleaning["axes"]:
        if axis == COLUMNS:
            films = graph.add("Transpose", films, perm=[0, 2, 1])
        films = _clean_rows(graph, films, recipe)
        if axis == COLUMNS:
            films = graph.add("Transpose", films, perm=[0, 2, 1])
    return films


def _clean_rows(graph: Graph, films: str, recipe: Recipe) -> str:
    """The sequential rule, pixel by pixel: two loops over the columns, each over all rows of all films at once.

    The first goes from right to left and finds the next down-edge after each pixel, and its grey level. The second goes
    from left to right, and takes the up-edges in turn.
    """
    x = graph.add(
        "Transpose", graph.cast(films, np.int32), perm=[2, 0, 1]
    )  # columns first: each iteration of a loop takes one
    width = graph.add("Gather", graph.add("Shape", films), _scalar(2))
    columns = graph.cast(graph.add("Range", _scalar(0), width, _scalar(1)), np.int32)
    across = graph.add("Unsqueeze", columns, _integers(1, 2))
    ups, downs, left = _edges(graph, x, across, recipe)
    rows = graph.add("Slice", graph.add("Shape", x), _integers(1), _integers(3))
    nowhere = graph.add("Expand", np.array([[NOWHERE]], np.int32), rows)
    ends, levels = _next_downs(graph, nowhere, columns, x, downs)
    widest = np.int32(min(recipe.max_width, NOWHERE // 2))  # NOWHERE lies beyond any film
    near = graph.add("LessOrEqual", graph.add("Sub", ends, across), widest)
    mean = graph.add("Div", graph.add("Add", left, levels), np.int32(2))
    kept = np.int32(-1)  # in place of a grey level: the pixel stays as it is
    if recipe.spare_wide:  # a wide object is skipped as a whole
        mean = graph.add("Where", near, mean, kept)
    else:
        ups = graph.add("And", ups, near)
    filled = _fill(graph, nowhere, columns, ups, ends, mean)
    cleaned = graph.add("Where", graph.add("Less", filled, np.int32(0)), x, filled)
    return graph.cast(graph.add("Transpose", cleaned, perm=[1, 2, 0]), np.uint8)


def _edges(graph: Graph, x: str, columns: str, recipe: Recipe) -> tuple[str, str, str]:
    """Up-edges, down-edges (bool), and the pixel to the left of each (int32), all (columns, batch, height).

    The formulas are those of `scanline.rule.edges`.
    """
    span, threshold = recipe.edge_span, np.int32(recipe.threshold)
    padded = graph.add("Pad", x, _integers(span, 0, 0, span - 1, 0, 0), np.int32(0))

    def at(offset: int) -> str:
        beyond = span - 1 - offset
        return graph.add("Slice", padded, _integers(span + offset), _integers(-beyond if beyond else END), _integers(0))

    def highest(names: list[str]) -> str:
        return names[0] if len(names) == 1 else graph.add("Max", *names)

    left = at(-1)
    ahead = highest([left, *(at(step) for step in range(span))])
    behind = highest([x, *(at(-step) for step in range(1, span + 1))])
    ups = graph.add("GreaterOrEqual", graph.add("Sub", ahead, left), threshold)
    ups = graph.add("And", ups, graph.add("Greater", columns, np.int32(0)))
    downs = graph.add("GreaterOrEqual", graph.add("Sub", behind, x), threshold)
    if span > 1:  # of adjacent edges, the foot of the ramp counts
        ups = graph.add("And", ups, graph.add("Greater", x, left))
        downs = graph.add("And", downs, graph.add("Greater", left, x))
        ups = graph.add("And", ups, graph.add("Not", _moved(graph, ups, 1)))
        downs = graph.add("And", downs, graph.add("Not", _moved(graph, downs, -1)))
    return ups, downs, left


def _moved(graph: Graph, flags: str, by: int) -> str:
    """bool (columns, ...), one column to the right (1) or to the left (-1)."""
    pads, (start, end) = ([1, 0, 0, 0, 0, 0], (0, -1)) if by == 1 else ([0, 0, 0, 1, 0, 0], (1, END))
    padded = graph.add("Pad", graph.cast(flags, np.int32), _integers(*pads), np.int32(0))
    moved = graph.add("Slice", padded, _integers(start), _integers(end), _integers(0))
    return graph.cast(moved, np.bool_)


def _next_downs(graph: Graph, nowhere: str, columns: str, x: str, downs: str) -> tuple[str, str]:
    """The column of the first down-edge after each pixel, and its grey level: int32 (columns, batch, height)."""
    body = Graph(f"{downs}_")
    here = body.add("Where", "down", "column", "end_before")
    level = body.add("Where", "down", "grey", "level_before")
    end, before = (body.add("Identity", name) for name in ("end_before", "level_before"))
    inner = _body(body, ["end_before", "level_before"], ["column", "grey", "down"],
                  [here, level, end, before])  # fmt: skip
    results = graph.add(
        "Scan", nowhere, nowhere, columns, x, downs, outputs=4, body=inner, num_scan_inputs=3,
        scan_input_directions=[1, 1, 1], scan_output_directions=[1, 1],
    )  # fmt: skip
    return results[2], results[3]


def _fill(graph: Graph, nowhere: str, columns: str, ups: str, ends: str, mean: str) -> str:
    """The new grey level of each pixel: int32 (columns, batch, height), -1 where it stays."""
    body = Graph(f"{ups}_")
    taken = body.add("And", "up", body.add("GreaterOrEqual", "column", "next_before"))
    following = body.add("Where", taken, "end", "next_before")
    level = body.add("Where", taken, "mean", "level_before")
    inside = body.add("Less", "column", following)
    filled = body.add("Where", inside, level, np.int32(-1))
    inner = _body(body, ["next_before", "level_before"], ["column", "up", "end", "mean"],
                  [following, level, filled])  # fmt: skip
    start = graph.add("Mul", nowhere, np.int32(0))
    results = graph.add("Scan", start, start, columns, ups, ends, mean, outputs=3, body=inner, num_scan_inputs=4)
    return results[2]


def _body(body: Graph, states: list[str], scanned: list[str], results: list[str]) -> Any:
    """The body of an ONNX loop: states first, then its inputs for each column."""
    from onnx import TensorProto, helper, numpy_helper

    def declared(name: str, kind: int, rank: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [None] * rank)

    inputs = [declared(name, TensorProto.INT32, 2) for name in states]
    for name_of_input in scanned:
        kind = TensorProto.BOOL if name_of_input in ("up", "down") else TensorProto.INT32
        inputs.append(declared(name_of_input, kind, 0 if name_of_input == "column" else 2))
    outputs = [declared(result, TensorProto.INT32, 2) for result in results]
    stored = [numpy_helper.from_array(array, key) for key, array in body.arrays.items()]
    return helper.make_graph(body.nodes, "body", inputs, outputs, stored)


def _integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _scalar(value: int) -> np.ndarray:
    return np.array(value, np.int64)
