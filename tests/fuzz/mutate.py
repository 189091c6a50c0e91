"""Small damage to valid files, by a seed: what a bad disk, a bad cable and a bad neighbour do."""

import struct
import zlib
from collections.abc import Callable

import numpy as np

Random = np.random.Generator

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
TEXTS = (
    "0.5", "1", "", " ", "0", "-1", "1e400", "nan", "inf", "-inf", "1_0", "٣", "0x10", "=cmd|' /C calc'!A0", "+1",
    "@SUM(1)", "\t=1", "../../etc/passwd", "..", "/etc/passwd", "a\\b", "a\0b", "\x1b[2J", "\u202e",
    "<script>alert(1)</script>", '"', "'", ",", "\r", "\n", "\r\n", "|", "No Finding|Mass", "Mass|Mass", "Hernia",
    "x" * 5000, "9" * 5000, "x" * 200_000, "\ud7ff", "😀", "a-000.png", "null", "true", "[]", "{}", "[" * 3000,
    '{"a":' * 3000, "1" + "0" * 400,
)  # fmt: skip


def damage(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """One to five changes: bits, bytes, numbers, cuts, repeats, and pieces of other files."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 3, 5])):
        offset = int(random.integers(len(changed) + 1))
        if random.random() < 0.5:
            offset = min(offset, int(random.integers(200)))  # where headers are
        length = int(random.choice([1, 2, 4, 8, 64, 1024]))
        CHANGES[random.integers(len(CHANGES))](random, changed, offset, length, others)
    return bytes(changed)


def _flip(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    if offset < len(data):
        data[offset] ^= 1 << int(random.integers(8))


def _noise(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    data[offset : offset + length] = random.bytes(length)


def _number(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    size = min(length, 8)
    number = int(random.choice(NUMBERS)) % 256**size
    data[offset : offset + size] = number.to_bytes(size, "big" if random.random() < 0.5 else "little")


def _cut(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    del data[offset:]


def _drop(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    del data[offset : offset + length]


def _repeat(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    data[offset:offset] = data[offset : offset + length] * int(random.integers(1, 20))


def _splice(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    other = others[random.integers(len(others))]
    start = int(random.integers(len(other) + 1))
    data[offset : offset + length] = other[start : start + length]


def _text(random: Random, data: bytearray, offset: int, length: int, others: list[bytes]) -> None:
    data[offset:offset] = TEXTS[random.integers(len(TEXTS))].encode("utf-8", "surrogatepass")


CHANGES: tuple[Callable[[Random, bytearray, int, int, list[bytes]], None], ...] = (
    _flip, _flip, _noise, _number, _number, _cut, _drop, _repeat, _splice, _text,
)  # fmt: skip


def mend_png(data: bytes) -> bytes:
    """The chunks with right checksums: else nothing behind them is ever tried."""
    offset, parts = 8, [data[:8]]
    while offset + 12 <= len(data):
        (length,) = struct.unpack(">I", data[offset : offset + 4])
        body = data[offset + 4 : offset + 8 + length]
        parts.append(data[offset : offset + 4] + body + struct.pack(">I", zlib.crc32(body)))
        offset += 12 + length
    return b"".join([*parts, data[offset:]])


def damage_table(random: Random, text: str) -> bytes:
    """A CSV with changed cells, rows and separators; sometimes damaged as bytes, too."""
    rows = [line.split(",") for line in text.splitlines()]
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        row = rows[min(int(random.integers(len(rows))), int(random.integers(1, 9)) - 1)]
        cell = int(random.integers(len(row)))
        action = random.integers(6)
        if action <= 2:
            row[cell] = TEXTS[random.integers(len(TEXTS))]
        elif action == 3:
            row.insert(cell, row[cell])
        elif action == 4 and len(row) > 1:
            del row[cell]
        else:
            rows.insert(int(random.integers(len(rows) + 1)), list(row))
    separator = "," if random.random() < 0.95 else str(random.choice([";", "\t", "|"]))
    data = "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogatepass")
    return damage(random, data, [data]) if random.random() < 0.3 else data


def damage_tree(random: Random, tree: object) -> object:
    """JSON with a value replaced, a field dropped or renamed, somewhere."""
    if isinstance(tree, dict) and tree and random.random() < 0.9:
        key = list(tree)[random.integers(len(tree))]
        rest = {k: v for k, v in tree.items() if k != key}
        action = random.random()
        if action < 0.1:
            return rest
        if action < 0.2:
            return rest | {str(random.choice([t for t in TEXTS if len(t) < 50])): tree[key]}
        return {k: damage_tree(random, v) if k == key else v for k, v in tree.items()}
    if isinstance(tree, list) and tree and random.random() < 0.7:
        offset = int(random.integers(len(tree)))
        return [*tree[:offset], damage_tree(random, tree[offset]), *tree[offset + 1 :]]
    texts = [text for text in TEXTS if len(text) < 10_000]
    values = [None, True, [], {}, [[]], {"a": {}}, -1, 0, 1.5, 1e308, 2**70, float("nan"), float("inf")]
    choice = int(random.integers(len(texts) + len(values)))
    return texts[choice] if choice < len(texts) else values[choice - len(texts)]
