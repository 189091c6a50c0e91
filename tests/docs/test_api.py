"""The API pages are made without a warning, and show what the docstrings say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pdoc", reason="the extra `docs`")
REPOSITORY = Path(__file__).parent.parent.parent


def test_every_module_has_a_page(tmp_path: Path) -> None:
    command = [sys.executable, "docs/api.py", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    pages = {path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.html")}
    package = REPOSITORY / "chexjax"
    files = {path.relative_to(REPOSITORY).with_suffix("") for path in package.rglob("*.py")}
    modules = {(path.parent if path.name == "__init__" else path).as_posix() for path in files}
    thin = {"chexjax/data/phantom", "chexjax/data/chestxray14"}
    thin |= {"chexjax/training/checkpoints", "chexjax/predict/join"}
    assert pages - {"index"} == {name for name in modules if not name.endswith("__main__")} - thin
    assert "uint8 (..., H, W)" in (tmp_path / "chexjax" / "scanline.html").read_text(encoding="utf-8")
