"""The command `python -m chexjax.predict.join`; what it runs is `chexjax.commands.join`."""

from chexjax.commands.join import main

if __name__ == "__main__":
    main()
