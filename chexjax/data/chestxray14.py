"""The command `python -m chexjax.data.chestxray14`; what it runs is `chexjax.data.prepared`."""

from chexjax.commands.prepare import main
from chexjax.runtime import run

if __name__ == "__main__":
    run(main)
