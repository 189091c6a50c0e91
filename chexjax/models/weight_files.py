"""Weights as people keep them: what a file is by its first bytes, and the tensors in it under any nesting.

Nothing of a file is run. PyTorch's files are unpickled by torch's own reader with `weights_only=True`. Its allow-list
gets, while a file is read, stand-ins of ours under the names that NumPy's scalars and arrays have in a pickle, and
inert ones for what trainers save beside the weights (options, paths, dates). The stand-ins build numbers from bytes
and call nothing of NumPy's that takes a state from a file.
"""

import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from chexjax.errors import CheckpointError, ConfigError, first_ten, reason_of

SUFFIXES: Final = (".pth", ".pt", ".pth.tar", ".ckpt", ".bin", ".safetensors", ".h5", ".hdf5", ".keras", ".onnx")
Tensors = dict[str, Any]  # by dotted name: torch tensors, or NumPy arrays

_PYTORCH_ONLY: Final = "only PyTorch's state dicts and safetensors are read"
# The first bytes of what is met under the name of weights, and what to say of it.
_KINDS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights: fetch them with git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes: {_PYTORCH_ONLY}"),
    (b"\x93NUMPY", f"a NumPy array: {_PYTORCH_ONLY}"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a picture (PNG)"),
    (b"\xff\xd8\xff", "a picture (JPEG)"),
    (b"GGUF", f"a GGUF file: {_PYTORCH_ONLY}"),
)
_MAGIC_NUMBER: Final = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # in the files of torch.save before 1.6
_PICKLE: Final = (
    "a Python pickle that torch did not write, which is code and is not loaded; where it was made, save the network's "
    "state_dict() by torch.save, or as .safetensors"
)
_NUMPY_KINDS: Final = "biufcSUV?"  # kinds of dtype whose values are plain bytes
# What trainers save beside the weights: options, paths, dates. An inert stand-in takes each one's place.
_INERT: Final = (
    "argparse.Namespace", *(f"builtins.{name}" for name in ("list", "dict", "int", "float", "bool", "str", "slice")),
    *(f"builtins.{name}" for name in ("set", "frozenset", "tuple", "complex", "range", "bytearray")),
    "decimal.Decimal", "fractions.Fraction", "zoneinfo.ZoneInfo._unpickle",
    "datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "types.SimpleNamespace",
    "uuid.UUID", "torch.torch_version.TorchVersion",
    *(f"pathlib.{dot}{name}" for dot in ("", "_local.") for name in (
        "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath",
    )),
)  # fmt: skip
_DICTS: Final = (  # subclasses of dict
    "easydict.EasyDict", "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)  # fmt: skip


class _Inert:
    """Stands for an object that the weights do not need; takes whatever its pickle gives and keeps nothing."""

    def __new__(cls, *_: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class _Dtype:
    """Stands for `numpy.dtype`: its code, as "f8", and its order of bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "|"

    def values(self, data: Any, shape: tuple[int, ...]) -> np.ndarray | None:
        """The numbers that the bytes stand for; None of objects and records, which are no plain numbers."""
        if not (self.code and self.code[0] in _NUMPY_KINDS and isinstance(data, bytes | str)):
            return None
        plain = data.encode("latin-1") if isinstance(data, str) else data  # text: a pickle of Python 2
        dtype = np.dtype(self.order + self.code)
        return np.frombuffer(plain, dtype).reshape(shape) if dtype.itemsize else None


class _Array:
    """Stands for `numpy.ndarray`; `array` is None where it holds objects."""

    def __init__(self, *_: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, by_columns, data = state[-4:]
        found = dtype.values(data, (-1,))
        self.array = None if found is None else found.reshape(tuple(shape), order="F" if by_columns else "C")


def _reconstruct(*_: Any) -> _Array:
    """Stands for NumPy's function that makes the empty array of which `__setstate__` gives the content."""
    return _Array()


def _scalar(dtype: _Dtype, data: Any = None) -> Any:
    """Stands for NumPy's function that makes a scalar."""
    found = dtype.values(data, ())
    return None if found is None else found[()]


def _dict(*_: Any) -> dict[Any, Any]:
    """Stands for `collections.defaultdict`."""
    return {}


def _list(*_: Any) -> list[Any]:
    """Stands for `collections.deque`."""
    return []


def _bytes(*_: Any) -> bytes:
    """Stands for `bytes`, by which an empty array's content is written."""
    return b""


def _stand_ins() -> list[Any]:
    """Pairs for `torch.serialization.safe_globals`: what to call, and for which name."""
    pairs: list[tuple[Any, str]] = [(_Dtype, "numpy.dtype"), (_Array, "numpy.ndarray")]
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        pairs += [(_reconstruct, f"{core}._reconstruct"), (_scalar, f"{core}.scalar")]
    pairs += [(_Dtype, f"numpy.{name}") for name in ("float32", "float64", "int32", "int64", "bool_")]
    pairs += [(_dict, "collections.defaultdict"), (_list, "collections.deque"), (_bytes, "builtins.bytes")]
    return pairs + [(OrderedDict, name) for name in _DICTS] + [(_Inert, name) for name in _INERT]


def read_state_dict(path: Path) -> Any:
    """What a `.safetensors`, `.pth`, `.pth.tar`, `.pt` or `.ckpt` file holds, whatever its suffix.

    No code in it is run: tensors and plain values are unpickled, and nothing else.

    Raises:
      CheckpointError: no such file, or it is something else (recognised by its first bytes), or is broken.
      ConfigError: what reads it is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("a folder, not a file of weights" if path.is_dir() else "no such file"))
    kind = kind_of(path)
    if kind not in ("torch", "safetensors"):
        raise CheckpointError(f"{path} is {kind}")
    try:
        if kind == "safetensors":
            return _safetensors(path)
        import torch
        from torch.serialization import safe_globals
    except ImportError as error:
        raise ConfigError(f"{path} cannot be read without {error.name}; install 'chexjax[torch]'") from None
    except OSError as error:  # a library that torch needs
        raise ConfigError(f"{path} cannot be read, for torch cannot be loaded: {reason_of(error)}") from None
    try:
        with safe_globals(_stand_ins()), warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # torch's own, of a pickle's protocol
            found = torch.load(file, map_location="cpu", weights_only=True)  # by its content, whatever its suffix
    except Exception as error:  # UnpicklingError, EOFError, RuntimeError, ...: torch has no family for it
        raise CheckpointError(_unreadable(path, error)) from None
    return found


def _safetensors(path: Path) -> Tensors:
    """NumPy arrays where NumPy has the type; torch's where it has not (bfloat16, float8)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # it is no mapping
        if any(name.startswith(("BF", "F8")) for name in types):
            from safetensors.torch import load_file as load_tensors

            return load_tensors(path)
        from safetensors.numpy import load_file

        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is a broken safetensors file: {reason_of(error)}") from None


def kind_of(path: Path) -> str:
    """ "torch", "safetensors", or in words what else the file is, by its first bytes.

    Raises:
      CheckpointError: it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read(1024)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from None
    if not data:
        return "an empty file: fetch it again"
    for magic, kind in _KINDS:
        if data.startswith(magic):
            return kind
    if data.startswith(b"PK\x03\x04"):
        return _kind_of_zip(path)
    if data.startswith(b"\x80"):
        return "torch" if _MAGIC_NUMBER in data[:64] else _PICKLE
    if data[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    if len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < 2**32:
        return "safetensors"
    written = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace").lstrip()
    text = written.lower()
    if text.startswith("<?xml") and "<html" not in text:
        return "an XML document, not the weights, as a server's answer where it refuses: fetch the file again"
    if text.startswith(("<!doctype", "<html", "<head", "<body", "<?xml", "<!--", "<script", "<meta")):
        return "a web page (HTML), not the weights: fetch the file itself, with a login where the site asks for one"
    if text.startswith("version https://git-lfs"):
        return _KINDS[0][1]
    if b"pytorch" in data[:64] or path.suffix == ".onnx":
        return f"an ONNX graph: {_PYTORCH_ONLY}"
    if "\ufffd" not in text[:200] and text[:200].replace("\n", " ").replace("\r", " ").replace("\t", " ").isprintable():
        return "text, not weights; it begins " + repr(written[:60])
    return f"of no kind that is known: {_PYTORCH_ONLY} (first bytes {data[:8].hex(' ')})"


def _kind_of_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "cut off: a zip archive, as torch writes, without its end; fetch it again"
    ends = {name.rsplit("/", 1)[-1] for name in names}
    if "constants.pkl" in ends:
        return (
            "a TorchScript program (torch.jit.save), which is code; save the state dict of the network it was made from"
        )
    if "data.pkl" in ends:
        return "torch"
    if "model.weights.h5" in ends:
        return f"a Keras file: {_PYTORCH_ONLY}"
    if any(name.endswith(".npy") for name in names):
        return f"an archive of NumPy arrays: {_PYTORCH_ONLY}"
    return f"a zip archive, not the weights: unpack it first; it holds {first_ten(names)}"


def _unreadable(path: Path, error: Exception) -> str:
    """Why torch did not read a file. Of its text only the unknown name: the rest advises what is unsafe."""
    whole = _class_of_whole_object(path)
    if whole:
        return (
            f"{path} holds a whole pickled {whole} (torch.save(network)), which is code and is not loaded\n"
            "where it was made, save network.state_dict() instead"
        )
    if "Unsupported operand" in str(error):
        return (
            f"{path} has a pickle protocol that torch's safe reader does not know; it reads protocol 2\n"
            "where it was made, save the network's state_dict() by torch.save without pickle_protocol"
        )
    words = str(error).split("GLOBAL ")
    if len(words) > 1:
        name = words[1].split()[0]
        return (
            f"{path} holds an object of {name} beside tensors, and nothing else is unpickled\n"
            "where it was made, save the network's state_dict() alone, by torch.save or as .safetensors"
        )
    lines = [line for line in str(error).splitlines() if line.strip() and "weights_only" not in line]
    reason = lines[0][:200] if lines and "weights_only" not in str(error)[:400] else type(error).__name__
    return f"{path} does not load, it is broken or cut off ({reason}); fetch it again, or save its state_dict() again"


def _class_of_whole_object(path: Path) -> str:
    """The class of the object that a torch file consists of; "" where that is a mapping, a list or a tensor.

    Only the pickle's instructions are looked at; nothing is built.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                member = next(name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl")
                with archive.open(member) as pickled:
                    return _first_class(pickled)
        with path.open("rb") as file:  # the older form: magic number, version and machine come first, a pickle each
            old = file.read(3) == b"\x80\x02\x8a"
            file.seek(0)
            for _ in range(3 if old else 0):
                for _ in pickletools.genops(file):
                    pass
            return _first_class(file)
    except Exception:  # pickletools has no family: ValueError, StructError, StopIteration, ...
        return ""


def _first_class(file: Any) -> str:
    """The class by which a pickle begins; "" where it begins otherwise."""
    texts: list[str] = []
    for position, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("GLOBAL", "STACK_GLOBAL") and position < 8:
            name = str(argument).replace(" ", ".") if argument else ".".join(texts[-2:])
            return "" if name in ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2") else name
        if "UNICODE" in opcode.name or "STRING" in opcode.name:
            texts.append(str(argument))
        if opcode.name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE") and position < 3:
            return ""
    return ""


# Tensors under any nesting.


def find_tensors(found: Any) -> Tensors:
    """Every tensor and array of nested mappings and lists, by its dotted name: `state_dict.module.conv1.weight`.

    What is reached twice is taken once, so a file that refers to itself ends, too.

    Args:
      found: what `read_state_dict` returns, or any such nesting.
    """
    tensors: Tensors = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", found)]
    while waiting:
        name, value = waiting.pop()
        value = value.array if isinstance(value, _Array) else value
        if isinstance(value, np.ndarray) or hasattr(value, "detach"):
            tensors[name] = value
        elif isinstance(value, Mapping | list | tuple):
            if id(value) in seen:
                continue
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting += [(f"{name}.{key}" if name else str(key), item) for key, item in reversed(list(items))]
    return tensors
