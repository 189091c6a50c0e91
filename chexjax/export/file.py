"""Writes an exported file, whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from chexjax.errors import CheckpointError, ConfigError
from chexjax.export.networks import have_maps
from chexjax.export.onnx_file import OPSET, to_int8, to_onnx
from chexjax.files import whole
from chexjax.predict.films import as_film, find_films
from chexjax.workdir.restore import Restored

CALIBRATION: Final = 128  # films from which the ranges for 8 bits are taken


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Writes a file whole or not at all.

    Raises:
      CheckpointError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial_path:
            save(partial_path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from None


def write_onnx(restored: Restored, network: str, out: Path, films: str | None, raw: bool) -> None:
    """Writes an ONNX file, in 8 bits if `films` names a folder of films to take ranges from.

    Raises:
      ConfigError: see `to_onnx`, `to_int8`; there are no films.
      DataError: one of the first `CALIBRATION` cannot be read.
    """
    model = to_onnx(restored, network, raw)
    if films:
        found = list(find_films([films]).files.values())
        if not found:
            raise ConfigError(f"--int8={films} holds no film to take ranges from")
        step = max(len(found) // CALIBRATION, 1)  # spread over the whole folder
        model = to_int8(model, (as_film(path) for path in found[::step][:CALIBRATION]))
    write(out, lambda path: path.write_bytes(model))
    bits = ", 8 bits" if films else ""
    print(
        f"{out}: ONNX, opset {OPSET}, {len(model) / 1e6:.1f} MB{bits}: {network}, uint8 films (any, any, any) -> "
        f"probabilities{' and maps' if have_maps(restored) else ''} of {len(restored.findings)} findings"
    )
    if not have_maps(restored):
        print("no maps: a network of the checkpoint has no class activation map")
