"""The command `python -m chexjax.training.checkpoints`; what it runs is `chexjax.workdir.checkpoints`."""

from chexjax.commands.verify import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
