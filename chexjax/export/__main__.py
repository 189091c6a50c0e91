"""`python -m chexjax.export`."""

from chexjax.commands.export import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
