"""Trains the networks of a config (one, two or more), evaluates them, and writes their report.

python -m chexjax.main --config=configs/dml.py --workdir=DIR
python -m chexjax.main --workdir=DIR                 goes on with the run in DIR, by its own config
python -m chexjax.main --workdir=DIR --mode=evaluate
python -m chexjax.evaluation.evaluate --checkpoint=DIR --source=NAME --dir=FOLDER --out=DIR2   on another data set
"""

import sys

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from chexjax.configs.arguments import absent_config, explain, find_configs, set_nothings, take_nothings
from chexjax.errors import ChexjaxError, exit_with_message, fail
from chexjax.files import folder_path, local_path
from chexjax.runtime import keep_compilations, keep_freed_memory

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/dml.py, configs/dml.py:VARIANT, RUN/config.json ...")
WORKDIR = flags.DEFINE_string("workdir", None, "The folder for checkpoints and results; a run in it is resumed.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of this run (SLURM, TPU pod, ...).")
PROFILE = flags.DEFINE_integer("profile", 0, "Number of steps to trace for TensorBoard's Profile tab; 0: none.", 0)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "Train, then evaluate; or evaluate alone.")
SPLIT = flags.DEFINE_enum("split", "test", ["train", "val", "test"], "The films that are evaluated.")


def main(argv: list[str]) -> None:
    """Runs what the flags ask for."""
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; config fields are set as --config.FIELD=VALUE", status=2)
    # After the flags are read: the libraries take seconds to load, and a mistyped flag should not wait for them.
    from chexjax.devices import ended_together, find_devices, join_processes

    with ended_together(), exit_with_message():
        workdir = folder_path(WORKDIR.value or "", "--workdir")
        if DISTRIBUTED.value:
            join_processes()
        find_devices()
        from chexjax.training import loop

        if MODE.value == "train":
            loop.train(CONFIG.value, workdir, PROFILE.value)
        loop.evaluate(CONFIG.value, workdir, SPLIT.value)


def parse(argv: list[str], about: str | None = __doc__) -> list[str]:
    """absl's parser, but what a user can get wrong is reported in one line. What the command compiles is kept.

    `--help` prints `about` and the flags.
    """
    if {"--help", "-help", "-h"} & set(argv[1:]):  # absl would end with status 1
        module = sys.argv[0] if __name__ == "__main__" else __name__
        print(f"{about}\n{flags.FLAGS.module_help(module)}")
        raise SystemExit(0)
    arguments = argv
    try:
        arguments = find_configs(argv)
        given, nothings = take_nothings(arguments)
        remaining = flags.FLAGS(given)
        if not flags.FLAGS["config"].present:
            raise _without_config(WORKDIR.value or "")
        if not isinstance(CONFIG.value, ConfigDict):
            path = config_flags.get_config_filename(flags.FLAGS["config"])
            raise flags.Error(absent_config(path))
        if not WORKDIR.value:
            raise flags.Error("no workdir is given; add --workdir=DIR")
        set_nothings(CONFIG.value, nothings)
        keep_compilations()
    except ChexjaxError as error:
        fail(str(error), status=2)
    except (flags.Error, AttributeError, ImportError, KeyError, SyntaxError, TypeError, ValueError, OSError) as error:
        fail(explain(error, arguments), status=2)
    keep_freed_memory()
    return remaining


def _without_config(workdir: str) -> Exception:
    """Why there is no config to run."""
    if not workdir:
        return flags.Error("no config is given; add --config=configs/dml.py, or the --workdir of a run")
    from chexjax.workdir.restore import check_no_file

    path = local_path(workdir, "--workdir")
    if not path.exists():
        return flags.Error(f"--workdir={workdir} does not exist; to begin a run there, add --config=configs/dml.py")
    try:
        check_no_file(path)
    except ChexjaxError as error:
        return error
    return flags.Error(f"{path} is no workdir: it holds no config.json; to begin a run, add --config=configs/dml.py")


if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)  # Orbax logs a traceback; our message is one line
    with exit_with_message():  # Ctrl-C before the work begins
        app.run(main, flags_parser=parse)
