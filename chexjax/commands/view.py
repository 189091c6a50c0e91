"""The window: a film, its findings, and their location.

    python -m chexjax.viewer --checkpoint=WORKDIR [FILE]

Ctrl+O opens a film; Left and Right step through its folder; Up and Down choose a finding; + and - (or the wheel) zoom,
0 fits, dragging moves the film; dragging with the right button (or Shift and the arrows) sets window and level;
C shows the film before and after cleaning, B the boxes; Ctrl+S saves the visible picture; Ctrl+Q quits.
"""

import sys
from pathlib import Path

from absl import flags

from chexjax.errors import ConfigError, command
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("checkpoint", None, "The workdir of a training run, or imported weights.", flag_values=values)
    flags.DEFINE_string("maps", "best", "As for chexjax.predict.", flag_values=values)
    flags.DEFINE_boolean("raw", False, "As for chexjax.predict.", flag_values=values)
    flags.DEFINE_string("prevalence", None, "As for chexjax.predict.", flag_values=values)
    rest = parse(sys.argv, values, __doc__)
    if len(rest) > 1:
        raise ConfigError("usage: python -m chexjax.viewer --checkpoint=WORKDIR [FILE]")

    try:
        import tkinter as tk
    except ImportError:
        raise ConfigError(
            "a window needs tkinter, which this Python lacks; on Debian and Ubuntu: apt install python3-tk"
        ) from None

    from chexjax.devices import find_devices
    from chexjax.trust.calibration import read_prevalence
    from chexjax.viewer import Viewer

    find_devices()
    film = Path(rest[0]).expanduser().absolute() if rest else None
    prevalence = read_prevalence(Path(values.prevalence).expanduser()) if values.prevalence else None
    try:
        window = Viewer(values.checkpoint, film, values.maps, values.raw, prevalence)
    except tk.TclError as error:
        raise ConfigError(f"there is no display for a window: {error}") from None
    window.mainloop()
    window.worker.join()
