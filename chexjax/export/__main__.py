"""`python -m chexjax.export`."""

from chexjax.commands.export import main

if __name__ == "__main__":
    main()
