"""The command `python -m chexjax.predict.join`; what it runs is `chexjax.commands.join`."""

from chexjax.commands.join import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
