"""The command `python -m chexjax.data.chestxray14`; what it runs is `chexjax.data.prepared`."""

from chexjax.commands.prepare import main

if __name__ == "__main__":
    main()
