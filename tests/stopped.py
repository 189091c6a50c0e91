"""A run that dies between two calls of its step, as a killed one does."""

from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from chexjax.training import loop


def train_until(step: int, config: ConfigDict, workdir: Path, **options: Any) -> None:
    """`loop.train` that fails once the call which begins at `step`, or a later one, has been made."""
    add = loop.Window.add
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Window, "add", lambda self, at, *rest: add(self, at, *rest) if at < step else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loop.train(config, workdir, **options)
