"""A study: the report's comparison, each cell with several seeds, in one table.

configs/study.py               simulated films, minutes to hours on a laptop
configs/study.py:chestxray14   the real set

The fields of `config.every` and of `config.network` hold for every cell: --config.every.epochs=5,
--config.network.width=0.5. A part of the study: --config.only=resnet18,twins.
"""

from ml_collections import ConfigDict

from chexjax.configs import common


def cell(
    *models: str, regime: str = "supervised", shared_stages: int | None = None, teacher: str = "", clean: bool = False,
    report: tuple[str, ...] = (),
) -> ConfigDict:  # fmt: skip
    """A cell of the table: its networks, how they learn, and which columns of the report stand beside them.

    `teacher` names another cell, whose run of the same seed teaches.
    """
    fields = {"models": models, "regime": regime, "shared_stages": shared_stages, "teacher": teacher, "clean": clean}
    return ConfigDict({**fields, "report": report})


def get_config(variant: str = "phantom") -> ConfigDict:
    """See the module."""
    if variant not in ("phantom", "chestxray14"):
        raise ValueError(f"configs/study.py has no variant {variant!r}; there are phantom, chestxray14")
    base = common.base()
    if variant == "chestxray14":
        base = common.chestxray14(base)
    config = ConfigDict({"seeds": 3, "only": "", "network": base.networks.net1})
    base.networks = ConfigDict()
    config.every = base
    twins = ("DML twins: 1st ResNet18", "DML twins: 2nd ResNet18")
    config.cells = ConfigDict(
        {
            "resnet18": cell("resnet18", report=("ResNet18",)),
            "resnet50": cell("resnet50", report=("ResNet50",)),
            "densenet121": cell("densenet121", report=("DenseNet121",)),
            "twins": cell("resnet18", "resnet18", regime="mutual", report=twins),
            "pair": cell("resnet18", "resnet50", regime="mutual", report=("DML: ResNet18", "DML: ResNet50")),
            "specialists": cell("resnet18", shared_stages=0, report=("4 specialists (ResNet18)",)),
            "branches": cell("resnet18", shared_stages=3),
            "distilled": cell("resnet18", regime="distill", teacher="resnet50"),
            "cleaned": cell("resnet18", clean=True),
        }
    )
    return config
