"""The command `python -m chexjax.data.phantom`; what it runs is `chexjax.data.sources.phantom`."""

from chexjax.commands.simulate import main

if __name__ == "__main__":
    main()
