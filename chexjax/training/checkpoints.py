"""The command `python -m chexjax.training.checkpoints`; what it runs is `chexjax.workdir.checkpoints`."""

from chexjax.commands.verify import main

if __name__ == "__main__":
    main()
