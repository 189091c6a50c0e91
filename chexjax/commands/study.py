"""A study: many kinds of run, several seeds each, and one table of mean and standard deviation beside the report's.

python -m chexjax.study --config=configs/study.py --workdir=DIR

Each run has its own workdir, `DIR/CELL/seed-S`, as `chexjax.main` would make it. When run again, the study continues
where it stopped. The table is written to `study.md` and `study.json` after every run; each row gives its number of
seeds. At the end every network is compared with the first cell's, by seed and by film, and all of it is printed.
"""

from functools import partial

from absl import app, logging

from chexjax.errors import ChexjaxError, ConfigError, exit_with_message, warn
from chexjax.files import folder_path
from chexjax.main import CONFIG, WORKDIR, parse


def main() -> None:
    """The command line."""
    logging.set_verbosity(logging.FATAL)  # Orbax logs a traceback; our message is one line
    with exit_with_message():
        app.run(run_all, flags_parser=partial(parse, about=__doc__))


def run_all(argv: list[str]) -> None:
    """Starts the runs that are still missing, and prints the table."""
    import jax

    from chexjax import study
    from chexjax.devices import find_devices
    from chexjax.training.logging import say

    with exit_with_message():
        find_devices()
        if len(argv) > 1:
            raise ConfigError(f"unexpected argument {argv[1]!r}; fields are set as --config.FIELD=VALUE")
        config, out = CONFIG.value, folder_path(WORKDIR.value or "", "--workdir")
        found: dict[str, list[study.Results]] = {name: [] for name in study.chosen(config)}
        for seed in range(1, config.seeds + 1):
            for name in found:
                say(f"== {name}, seed {seed}")
                found[name].append(study.run(config, name, seed, out))
                study.write(out, config, found)
        if jax.process_index() == 0:
            compared: study.Comparison = {}
            try:
                compared = study.compare(config, found, out)
            except ChexjaxError as error:  # all runs have ended: their table stands by itself
                warn(f"the cells are not compared: {error}")
            study.write(out, config, found, compared)
            print((out / "study.md").read_text(encoding="utf-8"), end="")
