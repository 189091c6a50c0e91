"""Makes the API pages out of the docstrings: `pip install '.[docs]'`, then

    python docs/api.py [DIR]        # by default build/api; a warning of pdoc's is an error

A page a module, but for the commands' and those that keep a command's old name.
"""

import pkgutil
import sys
import warnings
from pathlib import Path
from typing import Final

import pdoc

import chexjax

LEFT_OUT: Final = (
    "chexjax.data.phantom", "chexjax.data.chestxray14", "chexjax.training.checkpoints", "chexjax.predict.join",
)  # fmt: skip


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "build/api")
    found = ["chexjax", *(module.name for module in pkgutil.walk_packages(chexjax.__path__, "chexjax."))]
    # pdoc finds the modules below most packages by itself, but not below those with an `__all__`.
    left_out = [r"!.*\.__main__$", *(f"!{name}$".replace(".", r"\.") for name in LEFT_OUT)]
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message="The module specification .* has already been added")
    warnings.filterwarnings("ignore", message=".*Import of ArrayTree failed")  # optax's, in flax's TrainState
    pdoc.render.configure(docformat="google", footer_text=f"chexjax {chexjax.__version__}")
    pdoc.pdoc(*found, *left_out, output_directory=out)
    print(f"{len(list(out.rglob('*.html')))} pages: {out / 'index.html'}")


if __name__ == "__main__":
    main()
