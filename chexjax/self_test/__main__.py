"""`python -m chexjax.self_test`."""

from chexjax.commands.self_test import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
