"""Checks that the checkpoints of a run, and the prepared films that it used, are as they were written.

    python -m chexjax.workdir.checkpoints --verify WORKDIR

The sizes and sha256 of all files are compared with their manifests. Exit status: 0 if everything is intact, else 1.
"""

import sys
from pathlib import Path

from absl import flags

from chexjax.errors import CheckpointError, ConfigError, command, first_ten
from chexjax.runtime import parse


@command
def main() -> None:
    """The command line: exit status 0 if everything is intact, else 1."""
    values = flags.FlagValues()
    flags.DEFINE_string("verify", None, "The workdir whose checkpoints (and films) are checked.", flag_values=values)
    if parse(sys.argv, values, __doc__) or not values.verify:
        raise ConfigError("usage: python -m chexjax.workdir.checkpoints --verify WORKDIR")

    from chexjax.workdir.checkpoints import verify

    if broken := verify(Path(values.verify).expanduser()):
        raise CheckpointError(f"not as they were written, {first_ten(broken)}")
