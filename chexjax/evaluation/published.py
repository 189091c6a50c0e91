"""Published results for comparison, each with its split; results on different splits are not comparable."""

import json
from functools import cache
from importlib import resources
from typing import Any


@cache
def published() -> dict[str, Any]:
    """The content of `published.json`.

    "report": the columns of the report that chexjax re-implements: mean and per-finding AUROC, epochs run and epoch of
    convergence (None where it gives none). "others": mean AUROCs. "localization": share of the NIH boxes that are hit.
    "splits": what their names stand for.
    """
    return json.loads(resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
