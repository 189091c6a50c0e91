"""The command `python -m chexjax.data.phantom`; what it runs is `chexjax.data.sources.phantom`."""

from chexjax.commands.simulate import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
