"""The training entry: a config in, two trained networks (or one, or more) and their table out.

python -m chexjax.main --config=configs/dml.py --workdir=DIR
python -m chexjax.main --config=configs/dml.py --workdir=DIR --mode=evaluate
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from chexjax import configs
from chexjax.devices import ended_together, join_processes
from chexjax.errors import fail, told_plainly
from chexjax.runtime import keep_compilations, keep_freed_memory

CONFIG = config_flags.DEFINE_config_file("config", None, "A config file, as configs/dml.py or configs/dml.py:VARIANT.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and results go; a run in it goes on.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this run (SLURM, TPU pod, ...).")
PROFILE = flags.DEFINE_integer("profile", 0, "Trace so many steps for TensorBoard's Profile tab; 0: none.", 0)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train, then evaluate; or evaluate alone.")


def main(argv: list[str]) -> None:
    """Runs what the flags ask for."""
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; config fields are set as --config.FIELD=VALUE", status=2)
    if DISTRIBUTED.value:
        join_processes()
    # After the flags are read: the libraries take seconds to load, and a mistyped flag should not wait for them.
    from chexjax.training import loop

    with ended_together(), told_plainly():
        workdir = Path(WORKDIR.value or "").expanduser()
        if MODE.value == "train":
            loop.train(CONFIG.value, workdir, PROFILE.value)
        loop.evaluate(CONFIG.value, workdir)


def find_configs(argv: list[str]) -> list[str]:
    """The arguments, in which a `--config=configs/NAME.py` that lies nowhere here means the package's own file."""
    found = list(argv)
    for place, flag in enumerate(argv):
        name, equals, path = flag.partition("=")
        if name in ("--config", "-config") and equals:
            found[place] = f"{name}={_find(path)}"
        elif name in ("--config", "-config"):
            found[place + 1 : place + 2] = map(_find, argv[place + 1 : place + 2])
    return found


def _find(config: str) -> str:
    """PATH or PATH:VARIANT, as it is or within the package."""
    path, colon, variant = config.partition(":")
    packaged = Path(configs.__path__[0]) / Path(path).name
    if Path(path).parent != Path("configs") or Path(path).exists() or not packaged.is_file():
        return config
    return f"{packaged}{colon}{variant}"


def parse(argv: list[str]) -> list[str]:
    """absl's parser, but what a user can get wrong is told in one line. What the command compiles is kept."""
    if {"--help", "-help", "-h"} & set(argv[1:]):  # absl would end with status 1
        module = sys.argv[0] if __name__ == "__main__" else __name__
        print(f"{sys.modules['__main__'].__doc__}\n{flags.FLAGS.module_help(module)}")
        raise SystemExit(0)
    try:
        remaining = flags.FLAGS(find_configs(argv))
        if not flags.FLAGS["config"].present:
            raise flags.Error("no config is given; add --config=configs/dml.py")
        if not isinstance(CONFIG.value, ConfigDict):
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            raise flags.Error(f"the config file {path} does not exist")
        if not WORKDIR.value:
            raise flags.Error("no workdir is given; add --workdir=DIR")
    except KeyError as error:
        fail(str(error.args[0]).splitlines()[-1], status=2)
    except (flags.Error, AttributeError, ImportError, SyntaxError, TypeError, ValueError, OSError) as error:
        fail((str(error).strip() or repr(error)).splitlines()[-1], status=2)
    keep_compilations()
    keep_freed_memory()
    return remaining


if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)  # Orbax logs a traceback of what is told in a line anyhow
    app.run(main, flags_parser=parse)
