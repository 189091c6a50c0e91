"""`python -m chexjax.scanline`."""

from chexjax.commands.clean import main

if __name__ == "__main__":
    main()
