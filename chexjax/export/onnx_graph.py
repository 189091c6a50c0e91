"""Converts a JAX program to an ONNX graph, one equation of its jaxpr at a time.

Whatever depends on constants alone (weights, folded statistics) is computed here, by JAX, and stored. A feature map
with four axes has its channels first between convolutions, as in ONNX, and last wherever an equation reads them as its
last axis. A broadcast is left to the operator that uses it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jax
import numpy as np

from chexjax.errors import ConfigError

Shape = tuple[Any, ...]  # numbers, and JAX's symbols for unknown sizes
FIRST: Final = (0, 3, 1, 2)  # channels last -> channels first
LAST: Final = (0, 2, 3, 1)


@dataclass
class Constant:
    """A constant. `array` broadcasts to `shape` and has as many axes."""

    array: np.ndarray
    shape: Shape

    @property
    def whole(self) -> bool:
        return self.array.shape == self.shape


@dataclass
class Tensor:
    """A result in the graph. `shape` is JAX's; `stored` has 1 on axes that are not broadcast yet.

    With `first`, its channels stand first in the graph; `shape` and `stored` keep JAX's order.
    """

    name: str
    shape: Shape
    stored: Shape
    first: bool = False
    other: str = ""  # the same array with its channels in the other position, once it was needed


Value = Constant | Tensor


@dataclass
class Graph:
    """An ONNX graph under construction: nodes and stored arrays. The body of a loop needs a `prefix` for its names."""

    prefix: str = ""
    nodes: list[Any] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    count: int = 0
    _known: dict[tuple[str, Shape, bytes], str] = field(default_factory=dict)

    def add(self, operator: str, *inputs: "str | np.ndarray | np.generic", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node; returns the name of its output, or a list of names of several."""
        from onnx import helper

        names = [x if isinstance(x, str) else self.store(np.asarray(x)) for x in inputs]
        self.count += 1
        results = [f"{self.prefix}{operator}_{self.count}" + (f"_{k}" if k else "") for k in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, results, name=results[0], **attributes))
        return results[0] if outputs == 1 else results

    def cast(self, name: str, dtype: Any) -> str:
        """A value cast to another dtype."""
        from onnx import helper

        return self.add("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def store(self, array: np.ndarray) -> str:
        """The name of a stored array; equal small arrays are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= 4096 else b"")
        if array.size <= 4096 and key in self._known:
            return self._known[key]
        name = f"{self.prefix}array_{len(self.arrays)}"
        self.arrays[name] = array
        self._known[key] = name
        return name

    def producer(self, name: str) -> Any:
        """The node that computes a result; None for an input. Searched from the end, where it nearly always is."""
        return next((node for node in reversed(self.nodes) if name in node.output), None)

    def prune(self, outputs: Sequence[str]) -> None:
        """Removes nodes and arrays that no output needs."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
                for attribute in node.attribute:  # values that the body of a loop takes from outside
                    needed |= {name for inner in attribute.g.node for name in inner.input}
        self.nodes = kept[::-1]
        self.arrays = {name: array for name, array in self.arrays.items() if name in needed}


UNARY: Final = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "neg": "Neg",
    "abs": "Abs", "floor": "Floor", "ceil": "Ceil", "sign": "Sign", "not": "Not",
}  # fmt: skip
BINARY: Final = {
    "add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min", "pow": "Pow",
    "gt": "Greater", "lt": "Less", "ge": "GreaterOrEqual", "le": "LessOrEqual", "eq": "Equal", "and": "And", "or": "Or",
}  # fmt: skip
INLINED: Final = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat2")


def convert(program: Callable[..., Any], graph: Graph, name: str, shape: Shape, dtype: Any) -> list[Tensor]:
    """Adds a program of one array to the graph.

    Args:
      program: of an array to one or several.
      graph: grows.
      name: of the result in the graph that the program takes.
      shape: the array's, of numbers and symbols (`jax.export.symbolic_shape`).

    Returns:
      The results, channels last.

    Raises:
      ConfigError: the program does something that has no translation here; names it.
    """
    closed = jax.make_jaxpr(program)(jax.ShapeDtypeStruct(shape, dtype))
    source = Tensor(name, shape, shape)
    translation = _Translation(graph, source)
    results = translation.run(closed.jaxpr, closed.consts, [source])
    return [translation.tensor(result) for result in results]


class _Translation:
    def __init__(self, graph: Graph, source: Tensor):
        self.graph, self.source = graph, source

    def run(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Value]) -> list[Value]:
        values: dict[Any, Value] = {
            variable: _constant(array) for variable, array in zip(jaxpr.constvars, constants, strict=True)
        }
        values |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            return _constant(atom.val) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            results = self.equation(equation, [read(atom) for atom in equation.invars])
            values |= dict(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: list[Value]) -> list[Value]:
        kind, params = equation.primitive.name, equation.params
        shapes = [variable.aval.shape for variable in equation.outvars]
        if kind in INLINED:
            inner = params.get("jaxpr") or params.get("call_jaxpr") or params.get("fun_jaxpr")
            jaxpr, constants = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, [])
            return self.run(jaxpr, constants, inputs)
        if kind == "platform_index":  # the branch for any platform is the last
            return [_constant(np.int32(len(params["platforms"]) - 1))]
        if kind == "cond" and isinstance(inputs[0], Constant):
            branches = params["branches"]
            chosen = branches[int(np.clip(inputs[0].array, 0, len(branches) - 1))]
            return self.run(chosen.jaxpr, chosen.consts, inputs[1:])
        known = all(isinstance(x, Constant) and x.whole for x in inputs)
        if known and all(isinstance(size, int) for shape in shapes for size in shape):
            results = equation.primitive.bind(*(x.array for x in inputs if isinstance(x, Constant)), **params)
            return [_constant(result) for result in (results if equation.primitive.multiple_results else [results])]
        method = getattr(self, f"_{kind}", None)
        if kind in UNARY:
            (x,) = self.tensors(inputs)
            return [Tensor(self.graph.add(UNARY[kind], self.at(x, x.first)), x.shape, x.stored, x.first)]
        if kind in BINARY:
            return [self.binary(BINARY[kind], inputs, shapes[0])]
        if method is None:
            raise ConfigError(f"the networks use {kind!r}, for which no ONNX operator is known here")
        result = method(inputs, shapes[0], params)
        return result if isinstance(result, list) else [result]

    # Operands

    def tensor(self, value: Value) -> Tensor:
        """Broadcast on all axes but the batch, channels last."""
        if isinstance(value, Constant):
            return Tensor(self.graph.store(value.array), value.shape, value.array.shape)
        return Tensor(self.at(value, False), value.shape, value.stored)

    def tensors(self, values: Sequence[Value]) -> list[Tensor]:
        return [value if isinstance(value, Tensor) else self.tensor(value) for value in values]

    def at(self, x: Tensor, first: bool) -> str:
        """The name of `x` with its channels first, or last."""
        if x.first == first:
            return x.name
        if not x.other:
            x.other = self.graph.add("Transpose", x.name, perm=FIRST if first else LAST)
        return x.other

    def full(self, value: Value) -> Tensor:
        """Broadcast to its full shape, channels last."""
        x = self.tensor(value)
        if x.stored == x.shape:
            return x
        if not all(isinstance(size, int) or size == self.source.shape[0] for size in x.shape):
            raise ConfigError("the networks broadcast over something else than the films where ONNX needs its number")
        count = self.graph.add("Slice", self.graph.add("Shape", self.source.name), *np.array([[0], [1]], np.int64))
        sizes = [np.array([size], np.int64) if isinstance(size, int) else count for size in x.shape]
        return Tensor(self.graph.add("Expand", x.name, self.graph.add("Concat", *sizes, axis=0)), x.shape, x.shape)

    def binary(self, operator: str, inputs: Sequence[Value], shape: Shape) -> Tensor:
        stored = _broadcast([x.array.shape if isinstance(x, Constant) else x.stored for x in inputs])
        ranked = [x for x in inputs if isinstance(x, Tensor) and len(x.shape) == 4]
        first = bool(ranked) and all(x.first for x in ranked)
        names: list[str | np.ndarray] = []
        for x in inputs:
            if isinstance(x, Tensor):
                names.append(self.at(x, first and len(x.shape) == 4))
            else:
                names.append(x.array.transpose(FIRST) if first and x.array.ndim == 4 else x.array)
        return Tensor(self.node(operator, names, first), shape, stored, first)

    def node(self, operator: str, names: list[Any], first: bool) -> str:
        """The node of a binary operator, or a more specific ONNX node."""
        (constants, others) = ([x for x in names if kind is isinstance(x, np.ndarray)] for kind in (True, False))
        if len(constants) == 1 and len(others) == 1 and constants[0].size:
            (constant,), (name,) = constants, others
            if operator == "Max" and not constant.any():
                return self.graph.add("Relu", name)
            producer = self.graph.producer(name)
            if operator == "Min" and constant.size == 1 and producer is not None and producer.op_type == "Relu":
                limit = constant.reshape(())
                return self.graph.add("Clip", producer.input[0], np.zeros((), limit.dtype), limit)
            if operator == "Add" and first and producer is not None and producer.op_type == "Mul":
                factor = next((self.graph.arrays[x] for x in producer.input if x in self.graph.arrays), None)
                if factor is not None and _per_channel(factor) and _per_channel(constant):
                    source = next(x for x in producer.input if x not in self.graph.arrays)
                    scale, offset = np.broadcast_arrays(factor.ravel(), constant.ravel())
                    still = np.zeros_like(scale), np.ones_like(scale)
                    return self.graph.add("BatchNormalization", source, scale, offset, *still, epsilon=0.0)
        return self.graph.add(operator, *names)

    # Operators, by JAX's names

    def _square(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        return self.binary("Mul", [inputs[0], inputs[0]], shape)

    def _integer_pow(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        return self.binary("Pow", [x, Constant(np.array(params["y"], np.float32), ())], shape)

    def _rsqrt(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        root = self.graph.add("Sqrt", self.at(x, x.first))
        return Tensor(self.graph.add("Reciprocal", root), shape, x.stored, x.first)

    def _erfc(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        erf = self.graph.add("Erf", self.at(x, x.first))
        return Tensor(self.graph.add("Sub", np.ones((), np.float32), erf), shape, x.stored, x.first)

    def _log1p(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        more = self.graph.add("Add", self.at(x, x.first), np.ones((), np.float32))
        return Tensor(self.graph.add("Log", more), shape, x.stored, x.first)

    def _ne(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        equal = self.binary("Equal", inputs, shape)
        return Tensor(self.graph.add("Not", equal.name), shape, equal.stored, equal.first)

    def _copy(self, inputs: list[Value], shape: Shape, params: Any) -> Value:
        return inputs[0]

    _copy_p = _stop_gradient = _optimization_barrier = _copy

    def _convert_element_type(self, inputs: list[Value], shape: Shape, params: Any) -> Value:
        (x,), dtype = inputs, np.dtype(params["new_dtype"])
        if isinstance(x, Constant):
            return Constant(x.array.astype(dtype), shape)
        return Tensor(self.graph.cast(x.name, dtype), shape, x.stored, x.first)

    def _clamp(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        low, x, high = inputs
        return self.binary("Min", [self.binary("Max", [x, low], shape), high], shape)

    def _select_n(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        which, *cases = (self.tensor(x) for x in inputs)
        if len(cases) != 2:
            raise ConfigError("the networks select among more than two cases")
        name = self.graph.add("Where", which.name, cases[1].name, cases[0].name)
        return Tensor(name, shape, _broadcast([which.stored, *(case.stored for case in cases)]))

    def _broadcast_in_dim(self, inputs: list[Value], shape: Shape, params: Any) -> Value:
        x, axes = inputs[0], params["broadcast_dimensions"]
        stored = x.array.shape if isinstance(x, Constant) else x.stored
        new = [1] * len(shape)
        for axis, size in zip(axes, stored, strict=True):
            new[axis] = size
        if isinstance(x, Constant):
            return Constant(x.array.reshape(new), shape)
        if len(axes) == len(shape):
            return Tensor(x.name, shape, x.stored, x.first)
        plain = self.at(x, False)
        added = [axis for axis in range(len(shape)) if axis not in axes]
        return Tensor(self.graph.add("Unsqueeze", plain, np.array(added, np.int64)), shape, tuple(new))

    def _squeeze(self, inputs: list[Value], shape: Shape, params: Any) -> Value:
        (x,) = self.tensors(inputs)
        axes = [axis % len(x.shape) for axis in params["dimensions"]]
        stored = tuple(size for axis, size in enumerate(x.stored) if axis not in axes)
        return Tensor(self.graph.add("Squeeze", self.at(x, False), np.array(axes, np.int64)), shape, stored)

    def _reshape(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        x = self.full(inputs[0])
        return Tensor(self.reshaped(x.name, shape), shape, shape)

    def reshaped(self, name: str, shape: Shape) -> str:
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) > 1:
            raise ConfigError("the networks mix the films with more than one other axis")
        return self.graph.add("Reshape", name, np.array(sizes, np.int64))

    def _transpose(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        order = params["permutation"]
        name = self.graph.add("Transpose", self.at(x, False), perm=order)
        return Tensor(name, shape, tuple(x.stored[axis] for axis in order))

    def _concatenate(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        axis, tensors = params["dimension"], [x for x in inputs if isinstance(x, Tensor)]
        first = len(tensors) == len(inputs) and all(x.first and x.stored == x.shape for x in tensors)
        names = [x.name for x in tensors] if first else [self.full(x).name for x in inputs]
        return Tensor(self.graph.add("Concat", *names, axis=FIRST.index(axis) if first else axis), shape, shape, first)

    def _stack(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        axis = np.array([params["axis"]], np.int64)
        names = [self.graph.add("Unsqueeze", self.full(x).name, axis) for x in inputs]
        return Tensor(self.graph.add("Concat", *names, axis=params["axis"]), shape, shape)

    def _slice(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        x = self.full(inputs[0])
        starts, ends = params["start_indices"], params["limit_indices"]
        steps = params["strides"] or (1,) * len(starts)
        cut = [k for k in range(len(starts)) if starts[k] != 0 or steps[k] != 1 or shape[k] != x.shape[k]]
        if not all(isinstance(ends[k], int) for k in cut):
            raise ConfigError("the networks cut the batch")
        if not cut:
            return x
        bounds = [np.array([values[k] for k in cut], np.int64) for values in (starts, ends)]
        order = np.array(cut, np.int64), np.array([steps[k] for k in cut], np.int64)
        return Tensor(self.graph.add("Slice", x.name, *bounds, *order), shape, shape)

    def _gather(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        """Supports only gathers that are slices with known starts, such as indexing by slices gives."""
        starts, numbers = inputs[1], params["dimension_numbers"]
        if not (
            isinstance(starts, Constant) and starts.array.ndim == 1 and numbers.offset_dims == (*range(len(shape)),)
        ):
            raise ConfigError("the networks use 'gather', for which no ONNX operator is known here")
        axes, x = numbers.start_index_map, self.full(inputs[0])
        first = [int(np.clip(a, 0, x.shape[k] - shape[k])) for k, a in zip(axes, starts.array, strict=True)]
        last = [start + shape[axis] for start, axis in zip(first, axes, strict=True)]
        bounds = (np.array(values, np.int64) for values in (first, last, axes))
        return Tensor(self.graph.add("Slice", x.name, *bounds), shape, shape)

    def _pad(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        x, value = self.full(inputs[0]), inputs[1]
        config = params["padding_config"]
        if not isinstance(value, Constant) or any(low < 0 or high < 0 or inside for low, high, inside in config):
            raise ConfigError("the networks pad between pixels or cut by padding")
        pads = np.array([low for low, _, _ in config] + [high for _, high, _ in config], np.int64)
        return Tensor(self.graph.add("Pad", x.name, pads, value.array), shape, shape)

    def _reduce_sum(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        return self.reduced("ReduceSum", inputs[0], shape, params["axes"])

    def _reduce_max(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        return self.reduced("ReduceMax", inputs[0], shape, params["axes"])

    def reduced(self, operator: str, value: Value, shape: Shape, axes: Sequence[int]) -> Tensor:
        (x,) = self.tensors([value])
        if any(x.stored[axis] != x.shape[axis] for axis in axes):
            x = self.full(x)
        kept = [axis for axis in range(len(x.shape)) if axis not in axes]
        # With channels first, the sum is taken without a transpose if the remaining axes keep their order.
        first = x.first and [axis for axis in FIRST if axis in kept] == kept and 3 not in axes
        positions = [FIRST.index(axis) for axis in axes] if first else list(axes)
        name = self.at(x, first)
        if operator == "ReduceSum":
            name = self.graph.add(operator, name, np.array(positions, np.int64), keepdims=0)
        else:
            name = self.graph.add(operator, name, axes=positions, keepdims=0)
        return Tensor(name, shape, tuple(x.stored[axis] for axis in kept))

    def _dot_general(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        (left_sums, right_sums), (left_batch, right_batch) = params["dimension_numbers"]
        left, right = inputs
        simple = isinstance(right, Constant) and right.whole and right.array.ndim == 2 and right_sums == (0,)
        if simple and left_sums == (len(left.shape) - 1,):
            x = self.full(left) if not isinstance(left, Tensor) or left.stored[-1] != left.shape[-1] else left
            name = self.graph.add("MatMul", self.at(x, False), right.array)  # type: ignore[union-attr]
            return Tensor(name, shape, (*x.stored[:-1], shape[-1]))
        matrices = [
            self.flat(left, left_batch, left_sums, last=True),
            self.flat(right, right_batch, right_sums, last=False),
        ]
        return Tensor(self.reshaped(self.graph.add("MatMul", *matrices), shape), shape, shape)

    def flat(self, value: Value, batch: Sequence[int], sums: Sequence[int], last: bool) -> str | np.ndarray:
        """As a matrix, or one for each place along `batch`, whose columns (`last`) or rows are what is summed over."""
        kept = [axis for axis in range(len(value.shape)) if axis not in (*batch, *sums)]
        order = [*batch, *kept, *sums] if last else [*batch, *sums, *kept]
        extents = [math.prod(value.shape[axis] for axis in axes) for axes in (kept, sums)]
        shape = (*(value.shape[axis] for axis in batch), *(extents if last else extents[::-1]))
        if isinstance(value, Constant) and value.whole:
            return value.array.transpose(order).reshape(shape)
        name = self.full(value).name
        if order != list(range(len(order))):
            name = self.graph.add("Transpose", name, perm=order)
        return self.reshaped(name, shape)

    def _convolve(self, inputs: list[Value], shape: Shape, params: Any, group: int = 1) -> Tensor:
        padding = (inputs[1].shape[0] - 1) // 2
        return self.convolution(inputs, shape, [params["stride"]] * 2, [padding] * 4, group)

    def _depthwise(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        return self._convolve(inputs, shape, params, group=inputs[1].shape[-1])

    def _conv_general_dilated(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        numbers = params["dimension_numbers"]
        plain = numbers.lhs_spec == FIRST == numbers.out_spec and numbers.rhs_spec == (3, 2, 0, 1)
        if not plain or {*params["lhs_dilation"], *params["rhs_dilation"], params["batch_group_count"]} != {1}:
            raise ConfigError("the networks have a convolution with dilation or of other axes")
        (top, bottom), (left, right) = params["padding"]
        pads = [top, left, bottom, right]
        return self.convolution(inputs, shape, params["window_strides"], pads, params["feature_group_count"])

    def convolution(
        self, inputs: list[Value], shape: Shape, strides: Sequence[int], pads: list[int], group: int
    ) -> Tensor:
        x, kernel = inputs
        if not isinstance(kernel, Constant) or len(shape) != 4:
            raise ConfigError("the networks have a convolution whose kernel is computed, or of several at once")
        x = x if isinstance(x, Tensor) and x.stored == x.shape else self.full(x)
        weights = kernel.array.transpose(3, 2, 0, 1)
        size = list(weights.shape[2:])
        name = self.graph.add(
            "Conv", self.at(x, True), weights, kernel_shape=size, strides=list(strides), pads=pads, group=group
        )
        return Tensor(name, shape, shape, first=True)

    def _reduce_window_max(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        return self.pool("MaxPool", inputs, shape, params)

    def _reduce_window_sum(self, inputs: list[Value], shape: Shape, params: Any) -> Tensor:
        mean = self.pool("AveragePool", inputs, shape, params, count_include_pad=1)
        area = Constant(np.array(math.prod(params["window_dimensions"]), np.float32), ())
        return self.binary("Mul", [mean, area], shape)

    def pool(self, operator: str, inputs: list[Value], shape: Shape, params: Any, **attributes: Any) -> Tensor:
        (x,) = self.tensors(inputs)
        windows, strides, padding = (params[key] for key in ("window_dimensions", "window_strides", "padding"))
        outer = [windows[0], windows[3], strides[0], strides[3], *padding[0], *padding[3]] if len(windows) == 4 else []
        if outer != [1, 1, 1, 1, 0, 0, 0, 0] or {*params["base_dilation"], *params["window_dilation"]} != {1}:
            raise ConfigError("the networks pool over other axes than height and width")
        (top, bottom), (left, right) = padding[1:3]
        attributes |= {"strides": list(strides[1:3]), "pads": [top, left, bottom, right]}
        name = self.graph.add(operator, self.at(x, True), kernel_shape=list(windows[1:3]), **attributes)
        return Tensor(name, shape, shape, first=True)


def _constant(array: Any) -> Constant:
    array = np.asarray(array)
    return Constant(array, array.shape)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape to which several shapes broadcast; those with fewer axes are scalars."""
    rank = max(map(len, shapes))
    columns = zip(*(shape for shape in shapes if len(shape) == rank), strict=True)
    return tuple(next((size for size in sizes if not (isinstance(size, int) and size == 1)), 1) for sizes in columns)


def _per_channel(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[0] == array.shape[2] == array.shape[3] == 1
