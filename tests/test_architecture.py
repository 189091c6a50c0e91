"""Who may import whom: an arrow that runs back is a fault of design, and fails here."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "chexjax"

# What data and training both stand on.
FLOOR = {"commands", "errors", "findings", "images", "manifest", "processes", "progress"}
# Each room may use itself and what stands here; the order is that of the house, from the ground up.
ALLOWED = {
    "cache": set(),
    "errors": set(),
    "findings": set(),
    "manifest": set(),
    "memory": set(),
    "processes": {"errors"},
    "progress": set(),
    "spreadsheet": set(),
    "unfinished": set(),
    "commands": {"cache", "errors", "memory"},
    "images": {"errors"},
    "scanline": {"commands", "errors", "images", "progress", "spreadsheet"},
    "models": {"commands", "errors", "findings"},
    "data": FLOOR | {"cache", "scanline", "spreadsheet", "unfinished"},
    "evaluation": {"commands", "errors", "findings", "processes", "progress", "spreadsheet", "data", "models"},
    "explain": {"errors", "findings", "data", "models"},
    "training": FLOOR | {"data", "models", "evaluation", "explain"},
    "predict": {
        "commands",
        "errors",
        "findings",
        "images",
        "progress",
        "scanline",
        "spreadsheet",
        "data",
        "models",
        "training",
        "evaluation",
        "explain",
    },
}
ABOVE = {"viewer", "export", "main", "study"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "chexjax":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("chexjax."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("chexjax.")}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    if here in ABOVE or here == "__init__":
        return
    assert imported_rooms(path) <= ALLOWED[here] | {here}


def test_evaluation_never_sees_the_loop() -> None:
    for path in (PACKAGE / "evaluation").glob("*.py"):
        assert "chexjax.training" not in path.read_text()
