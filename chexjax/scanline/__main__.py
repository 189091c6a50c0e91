"""`python -m chexjax.scanline`."""

from chexjax.commands.clean import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
