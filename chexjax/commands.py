"""How the package's commands read their flags."""

from collections.abc import Sequence

from absl import flags

from chexjax.cache import keep_compilations
from chexjax.errors import ConfigError
from chexjax.memory import keep_freed_memory


def parse(argv: Sequence[str], values: flags.FlagValues, about: str | None) -> list[str]:
    """Reads `argv` into `values` and returns what is no flag; `--help` prints `about` and the flags, and ends.

    Each command has a `FlagValues` of its own, not absl's global one: modules with commands are imported together, and
    their flags share names. What the command compiles is kept for its next start.

    Raises:
      ConfigError: a flag that there is not, or a value it cannot have.
    """
    flags.DEFINE_boolean("help", False, "Shows this help.", short_name="h", flag_values=values)
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    if values["help"].value:
        print(f"{about}\n{values.get_help()}")
        raise SystemExit(0)
    keep_compilations()
    keep_freed_memory()
    return rest
