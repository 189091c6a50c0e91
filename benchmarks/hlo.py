"""What a compiled XLA program does, counted from the text of its module (`Compiled.as_text()`).

Only executed code counts: the entry computation, and the bodies of its loops, branches and calls. A fusion is one
kernel, whatever it computes. Parameters, tuples, bitcasts and constants cost nothing; of an asynchronous pair, only the
start counts. The body of a loop counts once per iteration if XLA knows their number, else once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# Bytes of an element; of other kinds the digits of their names, in bits.
WIDTHS: Final = {"pred": 1, "token": 0, "opaque": 0, "s4": 0.5, "u4": 0.5}
FREE: Final = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id",
    "opt-barrier", "add-dependency", "domain",
}  # fmt: skip
ELEMENTWISE: Final = {
    "abs", "add", "and", "compare", "convert", "copy", "divide", "exponential", "log", "maximum", "minimum", "multiply",
    "negate", "not", "or", "power", "rsqrt", "select", "sqrt", "subtract", "tanh",
}  # fmt: skip
COLLECTIVES: Final = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast",
)  # fmt: skip
CONVOLUTIONS: Final = re.compile(r'custom_call_target="__cudnn\$conv(BackwardInput|BackwardFilter)?')
LIBRARIES: Final = re.compile(r'custom_call_target="__cu(dnn|blas)\$')
PRODUCTS: Final = re.compile(r'custom_call_target="__cublas\$')


class Array(NamedTuple):
    """A shape of an HLO text: its dtype, its extents, and its memory space (0: the device's main memory)."""

    kind: str
    extents: tuple[int, ...]
    space: int = 0

    @property
    def elements(self) -> int:
        return math.prod(self.extents)

    @property
    def bytes(self) -> int:
        """Bytes in main memory; arrays in a core's own memory cause no traffic there."""
        if self.space:
            return 0
        digits = re.match(r"[a-z]+(\d+)", self.kind)
        width = WIDTHS[self.kind] if self.kind in WIDTHS else int(digits.group(1)) / 8 if digits else 0
        return math.ceil(self.elements * width)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation. `arrays` are the leaves of its result, `rest` what follows its operands.

    Of a parameter, `rest` is its number in parentheses.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Of the result; without the scratch of a library, of which it may use any part."""
        scratch = LIBRARIES.search(self.rest) and len(self.arrays) > 1 and self.arrays[-1].kind in ("s8", "u8")
        return sum(array.bytes for array in (self.arrays[:-1] if scratch else self.arrays))

    def called(self, *attributes: str) -> list[str]:
        """The computations that these attributes name."""
        found = []
        for attribute in attributes:
            for names in re.findall(rf"[ ,]{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.rest):
                found += re.findall(r"[\w.\-]+", names)
        return found


Computation = dict[str, Instruction]


@dataclass
class Counts:
    """What a program does each time it runs.

    `bytes`: operands and results of every kernel. Where a kernel slices an operand, gathers its rows or replaces a part
    of it, only that part counts. `whole_bytes`: without that exception.
    `flops`: of convolutions and matrix products. `collectives`: kind and bytes of each message. `calls`: custom calls
    by target, and convolutions that are none. `dots`: extents of each matrix product's result. `loops`: how often each
    loop runs, None where unknown.
    """

    kernels: int = 0
    bytes: int = 0
    whole_bytes: int = 0
    flops: float = 0
    collectives: list[tuple[str, int]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    dots: list[tuple[int, ...]] = field(default_factory=list)
    loops: list[int | None] = field(default_factory=list)

    def add(self, other: "Counts", times: int = 1) -> None:
        """Adds what a part does that runs `times` times."""
        self.kernels += times * other.kernels
        self.bytes += times * other.bytes
        self.whole_bytes += times * other.whole_bytes
        self.flops += times * other.flops
        self.collectives += times * other.collectives
        self.calls.update({target: times * number for target, number in other.calls.items()})
        self.dots += other.dots
        self.loops += other.loops


def count(text: str) -> Counts:
    """Counts a compiled module's text."""
    computations, entry = parse(text)
    return _count(computations, entry)


# Reading the text


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of the entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if head and not line.startswith("HloModule"):
                current = computations.setdefault(head.group(2), {})
                entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif instruction := parse_instruction(line):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text holds no ENTRY computation")
    return computations, entry


def parse_instruction(line: str) -> Instruction | None:
    """`[ROOT ]%name = shape opcode(operands), attributes`; None of another line."""
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    shape, after = _shape(line[head.end() :])
    opcode, _, tail = after.lstrip().partition("(")
    inside = _up_to_close("(" + tail)
    rest = tail[len(inside) - 1 :] if opcode != "parameter" else inside
    operands = () if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head.group(2), opcode, arrays(shape), operands, rest, bool(head.group(1)))


def _shape(text: str) -> tuple[str, str]:
    """Splits a line, from its shape on, into the shape and the rest."""
    if text.startswith("("):
        shape = _up_to_close(text)
    else:
        found = re.match(r"\w+\[[^\]]*\](\{[^}]*\})?", text)
        if not found:
            raise ValueError(f"no shape at the beginning of {text[:80]!r}")
        shape = found.group()
    return shape, text[len(shape) :]


def _up_to_close(text: str) -> str:
    """`text`, which begins with a parenthesis, up to the one that closes it."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: index + 1]
    raise ValueError(f"a parenthesis is not closed: {text[:80]!r}")


def arrays(shape: str) -> tuple[Array, ...]:
    """The leaves of a shape, of a tuple in order."""
    found = []
    for kind, extents, layout in re.findall(r"([a-z]\w*)\[([^\]]*)\](\{[^}]*\})?", re.sub(r"/\*.*?\*/", "", shape)):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(extent.lstrip("<=")) for extent in extents.split(",") if extent)
        found.append(Array(kind, sizes, int(space.group(1)) if space else 0))
    return tuple(found)


# Counting


def _count(computations: dict[str, Computation], name: str) -> Counts:
    counts, computation = Counts(), computations[name]
    for instruction in computation.values():
        opcode = instruction.opcode
        if opcode == "while":
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
            turns = int(known.group(1)) if known else None
            counts.loops.append(turns)
            for part in instruction.called("body", "condition"):
                counts.add(_count(computations, part), 1 if turns is None else turns)
        elif opcode == "conditional":
            branches = instruction.called("branch_computations", "true_computation", "false_computation")
            counts.add(max((_count(computations, branch) for branch in branches), key=lambda each: each.bytes))
        elif opcode in ("call", "async-start"):
            for part in instruction.called("to_apply", "calls", "called_computation"):
                counts.add(_count(computations, part))
        elif opcode not in FREE and not opcode.endswith(("-done", "-update")):
            _count_kernel(counts, instruction, computations, computation)
    return counts


def _count_kernel(
    counts: Counts, instruction: Instruction, computations: dict[str, Computation], computation: Computation
) -> None:  # fmt: skip
    operands = [computation[operand] for operand in dict.fromkeys(instruction.operands)]
    opcode, read = instruction.opcode, sum(operand.bytes for operand in operands)
    counts.kernels += 1
    kind = opcode.removesuffix("-start")
    if kind in COLLECTIVES:
        counts.collectives.append((kind, max(read, instruction.bytes - read * (len(instruction.arrays) > 1))))
    if opcode.endswith("-start") and kind != "all-reduce":
        read = 0  # the result names the operands too
    counts.whole_bytes += read + instruction.bytes
    if opcode.endswith("-start"):
        counts.bytes += read + instruction.bytes
    else:
        counts.bytes += _touched(instruction, operands, computations, computation)
    if target := re.search(r'custom_call_target="([^"]*)"', instruction.rest):
        counts.calls[target.group(1)] += 1
    for each, around in _with_fused(instruction, computations, computation):
        counts.flops += _flops(each, around)
        if each.opcode == "dot":
            counts.dots.append(each.arrays[0].extents)
        elif each.opcode == "convolution":
            counts.calls["convolution"] += 1


def _touched(
    instruction: Instruction, operands: Sequence[Instruction], computations: dict[str, Computation], around: Computation
) -> int:  # fmt: skip
    """Bytes that a kernel reads and writes."""
    if instruction.opcode != "fusion":
        alone = {instruction.name: instruction}
        return sum(_read(operand, alone) for operand in operands) + _written(instruction, around)
    (name,) = instruction.called("calls")
    fused = computations[name]
    parameters = sorted((each for each in fused.values() if each.opcode == "parameter"), key=_number)
    # An operand that stands twice among the operands is two parameters of the fusion, but is read once.
    reads: dict[str, int] = {}
    for operand, parameter in zip(instruction.operands, parameters, strict=True):
        # Memory spaces stand outside of a fusion alone.
        reads[operand] = max(reads.get(operand, 0), min(_read(parameter, fused), around[operand].bytes))
    root = next(each for each in fused.values() if each.is_root)
    if root.opcode != "tuple":
        return sum(reads.values()) + min(_written(root, fused), instruction.bytes)
    written = zip((fused[operand] for operand in root.operands), instruction.arrays, strict=True)
    return sum(reads.values()) + sum(min(_written(output, fused), array.bytes) for output, array in written)


def _number(parameter: Instruction) -> int:
    return int(parameter.rest.strip("()"))


def _read(value: Instruction, computation: Computation) -> int:
    """Bytes of `value` that its users in `computation` read.

    A kernel computes elements on demand: where it slices the result of elementwise operations, it reads no more than
    the slices.
    """
    elements = max(value.arrays[0].elements, 1)
    needed = sum(_needed(value, computation, {}).values())
    return min(math.ceil(value.bytes * needed / elements), value.bytes)


def _needed(value: Instruction, computation: Computation, known: dict[str, dict[str, int]]) -> dict[str, int]:
    """The last slices on the paths from `value` to the result, with their elements; so none counts twice.

    If a path has no slice, or the slices are more than the whole, it is `value` itself.
    """
    if value.name in known:
        return known[value.name]
    whole = {value.name: value.arrays[0].elements}
    parts: dict[str, int] = {}
    users = [user for user in computation.values() if value.name in user.operands]
    for user in users:
        first_alone = user.operands[0] == value.name and user.operands.count(value.name) == 1
        sliced = first_alone and user.opcode in ("slice", "dynamic-slice", "gather")
        replaced = first_alone and user.opcode in ("dynamic-update-slice", "scatter")
        if sliced or user.opcode == "bitcast" or (user.opcode in ELEMENTWISE and not user.is_root):
            parts |= _needed(user, computation, known)
        elif not replaced:
            parts = whole
            break
    is_result = value.is_root or (value.opcode != "parameter" and not users)
    known[value.name] = whole if is_result or sum(parts.values()) > sum(whole.values()) else parts
    return known[value.name]


def _written(output: Instruction, computation: Computation) -> int:
    """Bytes of a kernel's result that it writes."""
    while output.opcode == "bitcast":
        output = computation[output.operands[0]]
    if output.opcode == "dynamic-update-slice":
        return computation[output.operands[1]].bytes
    if output.opcode == "scatter" and len(output.operands) == 3:
        return computation[output.operands[2]].bytes
    return output.bytes


def _with_fused(
    instruction: Instruction, computations: dict[str, Computation], around: Computation
) -> Iterator[tuple[Instruction, Computation]]:  # fmt: skip
    """An instruction and, of a fusion, all in it and in the fusions in it; with the computation that each stands in."""
    yield instruction, around
    if instruction.opcode == "fusion":
        for name in instruction.called("calls"):
            for each in computations[name].values():
                yield from _with_fused(each, computations, computations[name])


def _flops(instruction: Instruction, around: Computation) -> float:
    """FLOPs of a convolution or a matrix product: two per multiplication, including those with padding."""
    operands = [around[operand].arrays[0] for operand in instruction.operands if around[operand].arrays]
    if labels := re.search(r"dim_labels=\w+_(\w+)->", instruction.rest):
        backward = CONVOLUTIONS.search(instruction.rest)
        output, kernel = instruction.arrays[0], operands[1]
        if backward and backward.group(1) == "BackwardInput":
            output = operands[0]
        elif backward and backward.group(1) == "BackwardFilter":
            output, kernel = operands[1], output
        # Zeros that a dilation puts between the films' pixels are not multiplied by a good program.
        dilation = re.search(r"lhs_dilate=([\dx]+)", instruction.rest)
        zeros = math.prod(map(int, dilation.group(1).split("x"))) if dilation else 1
        features = kernel.extents[labels.group(1).index("o")]
        return 2 * output.elements * kernel.elements / features / zeros
    if instruction.opcode == "dot":
        summed = _numbers(instruction.rest, r"lhs_contracting_dims=\{([\d,]*)\}")
    elif PRODUCTS.search(instruction.rest):
        summed = _numbers(instruction.rest.replace('"', ""), r"lhs_contracting_dimensions:\[([\d,]*)\]")
    else:
        return 0
    return 2 * instruction.arrays[0].elements * math.prod(operands[0].extents[axis] for axis in summed)


def _numbers(text: str, pattern: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(number) for number in found.group(1).split(",") if number] if found else []
