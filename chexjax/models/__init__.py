"""The networks by name, whole or cut into branches.

The names of this package are loaded when they are first used: `--help` needs no JAX.
"""

from typing import TYPE_CHECKING, Final

from chexjax.lazy import lazy

if TYPE_CHECKING:
    from chexjax.models.architecture import Architecture
    from chexjax.models.network import BranchedNetwork, Groups, Network
    from chexjax.models.table import NETWORKS, architecture_of, create_branched_model, create_model

__all__ = [
    "NETWORKS", "Architecture", "BranchedNetwork", "Groups", "Network",
    "architecture_of", "create_branched_model", "create_model",
]  # fmt: skip

_MODULES: Final = {
    "architecture": ("Architecture",),
    "network": ("BranchedNetwork", "Groups", "Network"),
    "table": ("NETWORKS", "architecture_of", "create_branched_model", "create_model"),
}

__getattr__, __dir__ = lazy(__name__, {name: module for module, names in _MODULES.items() for name in names})
