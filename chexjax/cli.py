"""The command `chexjax`: the module commands by name."""

import runpy
import sys
from typing import Final, NamedTuple

import chexjax
from chexjax.errors import exit_with_message


class Command(NamedTuple):
    """A module that is run as `python -m` runs it, with `arguments` before those that are typed."""

    module: str
    about: str
    arguments: tuple[str, ...] = ()


COMMANDS: Final[dict[str, Command]] = {
    "train": Command("chexjax.main", "trains the networks of a config, evaluates them, writes the report"),
    "evaluate": Command(
        "chexjax.main", "evaluates a run again; with --checkpoint, on another data set", ("--mode=evaluate",)
    ),
    "predict": Command("chexjax.predict", "predicts findings and their locations from films"),
    "serve": Command("chexjax.serve", "a service: films in over HTTP or DICOM, findings out"),
    "score": Command("chexjax.evaluation.score", "AUROC with intervals of any model's CSV, two models compared"),
    "check-maps": Command("chexjax.explain.check", "tests a run's maps against control maps that ignore the film"),
    "view": Command("chexjax.viewer", "the window: a film, its findings, and where they are"),
    "prepare": Command("chexjax.data.prepared", "reads, cleans and shrinks a data set's films ahead of a run"),
    "simulate": Command("chexjax.data.phantom", "writes a folder of simulated films"),
    "clean": Command("chexjax.scanline", "removes bright objects from films"),
    "export": Command("chexjax.export", "a run's networks as one file that needs no chexjax"),
    "import-weights": Command("chexjax.models.torch_weights", "imports published weights (torchvision, timm, ...)"),
    "probe": Command("chexjax.training.probe", "logistic regression on the frozen features of a network"),
    "study": Command("chexjax.study", "many kinds of run, each with several seeds, in one table"),
    "self-test": Command("chexjax.self_test", "whether this install computes what it should"),
    "verify": Command(
        "chexjax.workdir.checkpoints", "checks that a run's files are as they were written", ("--verify",)
    ),
}
# What `chexjax evaluate` runs where it is given a --checkpoint, and not a run's own --workdir.
ELSEWHERE: Final = Command("chexjax.evaluation.evaluate", "evaluates a checkpoint on another data set")
HELP: Final = ("--help", "-h", "-help", "help")


def usage() -> str:
    """What `chexjax --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: chexjax COMMAND [options]; chexjax COMMAND --help says more, chexjax --version which", "", *lines]
    )


def main() -> None:
    """Runs the command that is typed; status 2 where there is no such command."""
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name in HELP or name == "--version":
        with exit_with_message():
            print(usage() if name in HELP else chexjax.__version__)
        return
    if name not in COMMANDS:
        what = f"there is no command {name[:80]!r}" if name else "no command is given"
        print(f"error: {what}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    command = COMMANDS[name]
    if name == "evaluate" and any(text.lstrip("-").partition("=")[0] == "checkpoint" for text in arguments):
        command = ELSEWHERE
    given = () if set(arguments) & set(HELP) else command.arguments  # --verify would take --help for its value
    sys.argv = [f"chexjax {name}", *given, *arguments]
    try:
        runpy.run_module(command.module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # while the command's libraries are loaded
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
