"""The loop that every regime shares: read it from `train` downwards."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
from ml_collections import ConfigDict

from chexjax.configs import common
from chexjax.data.feed import open_feed, peak_memory, training_slots
from chexjax.data.films import check_classes, open_films, write_division
from chexjax.data.labels import Uncertain
from chexjax.data.pipeline import batch_films, evaluation_batches
from chexjax.data.prepared import Prepared
from chexjax.data.sources import SOURCES
from chexjax.data.sources.gather import named_sources
from chexjax.devices import AXIS, let_end, meet, replicate, unreplicate
from chexjax.errors import CheckpointError, ConfigError, DataError, Interrupted, Stopped, TrainingError, first_ten
from chexjax.evaluation.evaluator import Predictions, create_predictor, predict_split
from chexjax.evaluation.localization import evaluate_localization
from chexjax.evaluation.metrics import mean_over_findings
from chexjax.evaluation.page import run_page
from chexjax.evaluation.report import write_run
from chexjax.evaluation.summary import model_title, summarize_run
from chexjax.evaluation.tables import auroc_text, format_epoch
from chexjax.evaluation.trust import fit_calibration, fit_domains, read_kept, summarize_trust
from chexjax.evaluation.views import VIEWS
from chexjax.explain.check import read_check
from chexjax.models import Groups
from chexjax.models.configured import AnyNetwork, dtype_of
from chexjax.models.network import names
from chexjax.runtime import progress_bar
from chexjax.training.depths import depth_factors, depth_groups
from chexjax.training.groups import check_groups, find_groups
from chexjax.training.logging import Pace, Profile, Scalars, say
from chexjax.training.objectives import DIVERGENCES, LOSSES, SOFT_TARGETS, known_prevalence
from chexjax.training.start import start_from
from chexjax.training.state import TrainState, create_network, create_optimizer, create_state, decays, learning_rates
from chexjax.training.steps import STEPS, Context, Fixed, Measured, Teacher, compiled_together, create_steps
from chexjax.training.stopping import stop_on_signals
from chexjax.training.targets import Targets, is_table, read_targets
from chexjax.trust.kept import CALIBRATION, Trust, write_trust
from chexjax.workdir.checkpoints import Checkpoints, Metadata
from chexjax.workdir.config import check_config, claim_workdir, read_config
from chexjax.workdir.lock import hold
from chexjax.workdir.restore import Restored, findings_in, groups_in, restore_best, restore_others

# What a distillation's students learn from.
Teaches = Restored | Targets | None


def train(config: ConfigDict, workdir: Path, profile: int = 0) -> None:
    """Trains the networks of `config`, from where `workdir` stands, to the last step.

    After the first call, JAX's profiler traces `profile` steps and writes a trace that TensorBoard shows.

    The order in which a state is found: the workdir's latest checkpoint, else `init_from`, else new weights. The same
    command therefore goes on where it was stopped, and ends with the same weights as if it never had been.

    Raises:
      Stopped: SIGTERM or Ctrl-C came; the step it found is saved.
      ChexjaxError: of the kind that tells what is wrong; see `errors`.
    """
    config = common.complete(config)
    check(config)
    with hold(workdir) as check_lock_is_ours:
        claim_workdir(workdir, config)
        _train(config, workdir, profile, check_lock_is_ours)


def _train(config: ConfigDict, workdir: Path, profile: int, check_lock_is_ours: Callable[[], None]) -> None:
    began = time.monotonic()
    checkpoints = Checkpoints(workdir, writing=True)
    latest = checkpoints.latest
    saved = None if latest is None else checkpoints.metadata(latest)
    films = open_films(config.data, digest_of(saved, config, workdir))
    say(films.summary())
    check_classes(films, has_teacher=config.regime == "distill")
    write_division(config.data, films, workdir)

    train_films = films.parts["train"].names
    if config.batch_size > len(train_films):
        raise ConfigError(f"config.batch_size is {config.batch_size}, but there are {len(train_films)} training films")
    slots = training_slots(config, films)
    shown = train_films if slots is None else tuple(train_films[film] for film in slots)
    epoch_steps = len(shown) // config.batch_size
    last_step = math.ceil(config.epochs * epoch_steps)
    last_step = min(last_step, config.max_steps) if config.max_steps else last_step
    eval_steps = max(round(config.eval_epochs * epoch_steps), 1)
    frozen_steps = round(config.freeze_trunk_epochs * epoch_steps)

    with stop_on_signals() as stop, Profile(workdir, profile) as trace:
        groups = choose_groups(config, films, saved)
        teacher = open_teacher(config, films)
        outputs = len(films.findings)
        models = {name: create_network(config, name, groups, AXIS, outputs) for name in config.networks}
        shape = (films.size, films.size, 1)
        states = {n: create_state(config, n, model, shape, last_step, frozen_steps) for n, model in models.items()}
        describe(config, films, states, groups, teacher, last_step, eval_steps)
        for name, model in models.items():
            for line in rate_groups(config.networks[name], model, states[name], shape):
                say(f"{name}: {line}")

        networks, films_of = tuple(states), film_names_of(config, shown)
        step, history, window = 0, [], Window(networks, films_of, films.findings)
        if latest is not None and saved is not None:
            step = latest
            states, _ = checkpoints.restore(step, states)
            history = check_metadata(saved, films, workdir)
            check_teacher(saved, teacher, config)
            window.set_state(saved["window"])
            say(f"going on from step {step} of {last_step}")
        else:
            states = {n: start_from(config, n, models[n], state, shape, films.findings) for n, state in states.items()}
        if step >= last_step:
            return

        def rates(step: int) -> dict[str, float]:
            return {
                f"train/{name}/{key}": rate
                for name, network in config.networks.items()
                for key, rate in learning_rates(network, step, last_step, frozen_steps).items()
            }

        known = context(config, films, groups, teacher)
        feed = open_feed(config, films, step)
        say(feed.description)
        trainer = compiled_together(create_steps(known, feed.read, feed.most))
        heads_trainer = compiled_together(create_steps(replace(known, frozen=True), feed.read, feed.most))
        variables = teacher.variables if isinstance(teacher, Restored) else {}
        targets = teacher.logits if isinstance(teacher, Targets) else None
        fixed = replicate(Fixed(np.int32(config.seed), variables, targets))
        predictor = create_predictor({n: m.apply for n, m in models.items()}, config.data.mean, config.data.std)
        replicated = replicate(tuple(states.values()))
        del states  # the devices have their own
        size = config.batch_size
        scalars, pace = Scalars(workdir, step), Pace(step, size)
        bar = progress_bar(last_step * size, "training", step * size, shown=jax.process_index() == 0)
        first = step
        while step < last_step:
            frozen = step < frozen_steps
            pause = min(step - step % eval_steps + eval_steps, frozen_steps if frozen else last_step, last_step)
            count = min(feed.most, pause - step)
            move = heads_trainer if frozen else trainer
            if step > first:  # the first call compiles
                trace.begin()
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                replicated, measured = move(replicated, next(feed.sources), fixed, np.int32(step), np.int32(count))
            let_end(measured)
            window.add(step, count, measured)
            trace.add(count, measured)
            step += count
            if step == first + count:
                jax.block_until_ready(measured)
                say(f"the first {count} steps ended {time.monotonic() - began:.1f} s after the start")
                pace.restart(step)
            bar.update(count * size)
            stopping, validating = stop.due(), step % eval_steps == 0 or step == last_step
            if validating or stopping:
                window.close()
            if step % config.log_every < count and window.latest is not None:
                done = window.latest + 1
                measurements = window.means("train") | window.norms("train") | rates(window.latest)
                scalars.write(done, measurements | pace.point(done))
            if validating:
                variables = {name: state.variables for name, state in zip(networks, replicated, strict=True)}
                predictions = predict(films, "val", predictor, variables, config)
                figures = validation_figures(predictions)
                scalars.write(step, figures)
                history.append({"step": step, "epoch": step / epoch_steps, **window.means("train"), **figures})
                say(format_epoch(history[-1], last_step / epoch_steps, tuple(predictions.probabilities)))
                window = Window(networks, films_of, films.findings)
            if validating or stopping:
                check_lock_is_ours()
                best_by = selection_figure(figures, networks) if validating else None
                saved = checkpoint_metadata(config, films, groups, teacher, step, history, window)
                checkpoints.save(step, dict(zip(networks, unreplicate(replicated), strict=True)), best_by, saved)
                pace.restart(step)
            if stopping:
                break
        bar.close()
        scalars.close()
        say(f"most memory that was in use: {peak_memory() / 2**20:,.0f} MiB")
    if step < last_step:
        kind, by = (Interrupted, "Ctrl-C") if stop.interrupted else (Stopped, "SIGTERM")
        raise kind(f"stopped by {by} after step {step} of {last_step}, which is saved; the same command goes on")
    if stop.interrupted:
        raise Interrupted(f"stopped by Ctrl-C after step {step}, the last; the same command evaluates the run")


def evaluate(config: ConfigDict, workdir: Path, split: str = "test") -> Predictions:
    """Restores the best checkpoint of `workdir`, evaluates it on a split, and writes and prints the results.

    The results are those of the run, in `workdir` itself, for the test films; for others they are in `workdir/SPLIT`.

    Raises:
      ChexjaxError: of the kind that tells what is wrong; see `errors`.
    """
    config = common.complete(config)
    check(config)
    check_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    best = restore_best(workdir, checkpoints)
    saved = checkpoints.metadata(checkpoints.latest or best.step)
    try:
        films = open_films(config.data, digest_of(saved, config, workdir))
    except DataError as error:
        if config.data.dir == read_config(workdir).data.dir:
            raise
        raise DataError(f"{error}\n{other_films(workdir)}") from error
    history = check_metadata(saved, films, workdir)
    kept = read_kept(best)  # by all processes, before one of them writes
    predictor = create_predictor(
        {n: m.apply for n, m in best.models.items()}, config.data.mean, config.data.std, config.views
    )
    variables = replicate(best.variables)
    validation = predict(films, "val", predictor, variables, config)
    predictions = validation if split == "val" else predict(films, split, predictor, variables, config)
    calibrations, bands = fit_calibration(validation)
    domains, gate = fit_domains(best, variables, films, split, kept)
    if jax.process_index() == 0:
        findings = best.findings
        gates = {**(kept.gates if domains is kept.domains else {}), split: gate}
        trust = Trust(calibrations, bands, domains, gates)
        if split == "test" or not (workdir / CALIBRATION).exists():  # other splits leave the run's own results alone
            write_trust(best, trust)
        results = summarize_run(predictions, validation, history, config, best.step, split, findings)
        results["trust"] = summarize_trust(trust, predictions, gate, findings)
        results["localization"], examples = evaluate_localization(best, films.source(split), predictions, findings)
        results["maps"] = read_check(workdir, best.step)
        sources = films.sources()
        page = run_page(results, config, films.parts, predictions, history, examples, findings, sources, trust)
        out = workdir if split == "test" else workdir / split
        out.mkdir(exist_ok=True)
        write_run(out, results, predictions, history, page, findings)
        print(auroc_text(results, findings))
    meet("the report is written")  # at its end JAX would wait for the first process for five minutes alone
    return predictions


def predict(
    films: Prepared, split: str, predictor: Any, variables: dict[str, Any], config: ConfigDict
) -> Predictions:  # fmt: skip
    """The networks' predictions for a split; `variables` are replicated."""
    batches = evaluation_batches(films.source(split), config.batch_size, config.data.threads)
    count = len(films.parts[split].names)
    with progress_bar(count, f"evaluating {split}", shown=jax.process_index() == 0, kept=False) as bar:
        predictions = predict_split(predictor, variables, batches, films.parts[split], bar.update)
    known = not np.isnan(films.parts[split].labels).all()  # without any known label a loss is NaN, too
    broken = [
        name
        for name, loss in predictions.losses.items()
        if not np.isfinite(predictions.probabilities[name]).all() or (known and not math.isfinite(loss))
    ]
    if broken:
        raise TrainingError(
            f"the predictions of {', '.join(broken)} on the {split} split are not finite: training diverged"
        )
    return predictions


def validation_figures(predictions: Predictions) -> dict[str, float]:
    """Loss per network; mean AUROC per network and of the ensemble."""
    losses = {f"val/{name}/loss": loss for name, loss in predictions.losses.items()}
    return losses | {f"val/{name}/auroc": mean_over_findings(a) for name, a in predictions.aurocs.items()}


def selection_figure(figures: dict[str, float], networks: tuple[str, ...]) -> float:
    """By what the best checkpoint is chosen: the networks' mean validation AUROC, averaged over the networks.

    Where validation has no finding of both classes there is no AUROC; then 0, and the first checkpoint counts as best.
    """
    figure = float(np.mean([figures[f"val/{name}/auroc"] for name in networks]))
    return figure if math.isfinite(figure) else 0.0


class Window:
    """The measurements since the last validation, read one call behind so that the device is never waited for.

    A loss that is not finite stops the run at the step that brought it, before anything of it is saved.
    """

    def __init__(self, networks: tuple[str, ...], films_of: Callable[[int], list[str]], findings: tuple[str, ...]):
        self._networks, self._films_of, self._findings = networks, films_of, findings
        self._pending: tuple[int, int, Measured] | None = None
        self._sums: dict[str, np.ndarray] = {}
        self._count = 0
        self._norms: dict[str, np.ndarray] = {}
        self.latest: int | None = None  # the last step whose measurements have been read; the first is 0

    def add(self, step: int, count: int, measured: Measured) -> None:
        """Takes what the `count` steps from `step` on measured, and reads what the call before them did."""
        self.close()
        self._pending = (step, count, measured)

    def close(self) -> None:
        """Reads what is still waiting.

        Raises:
          TrainingError: a loss or a gradient is not finite.
        """
        if self._pending is None:
            return
        (step, count, measured), self._pending = self._pending, None
        steps = {key: np.asarray(value, np.float64)[:count] for key, value in jax.device_get(measured).items()}
        # Of the last step alone: they are for TensorBoard, and may overflow long before the network does.
        sizes = {key: steps.pop(key)[-1] for key in ("update_norm", "parameter_norm")}
        for k in range(count):
            values = {key: value[k] for key, value in steps.items()}
            if not all(np.isfinite(value).all() for value in values.values()):
                raise TrainingError(self._trouble(step + k, values))
            values["cross_entropy"] = values["cross_entropy"] * values["known"]
            self._sums = {key: self._sums.get(key, 0.0) + value for key, value in values.items()}
        self._count += count
        self.latest, self._norms = step + count - 1, sizes | {"gradient_norm": values["gradient_norm"]}

    def state(self) -> Metadata:
        """What has been read so far, to go on from in another process; exact."""
        return {"count": self._count, "sums": {key: value.tolist() for key, value in self._sums.items()}}

    def set_state(self, state: Metadata) -> None:
        """Goes on from what `state` gave."""
        self._count = state["count"]
        self._sums = {key: np.array(value) for key, value in state["sums"].items()}
        if self._sums and "known" not in self._sums:  # a checkpoint of before labels could be unknown
            self._sums["known"] = np.full_like(self._sums["cross_entropy"], self._count)

    def means(self, prefix: str) -> dict[str, float]:
        """`prefix/network/measurement` -> its mean; of the cross-entropy over all that is known, NaN without any."""
        sums = {key: np.array([np.mean(total) for total in totals]) for key, totals in self._sums.items()}
        known = sums.pop("known", np.zeros(0))
        counts = {"cross_entropy": np.where(known > 0, known, np.nan)}
        return {
            f"{prefix}/{name}/{key}": float(figure)
            for key, totals in sums.items()
            for name, figure in zip(self._networks, totals / counts.get(key, self._count), strict=True)
        }

    def norms(self, prefix: str) -> dict[str, float]:
        """`prefix/network/norm` -> what it was at the step `latest`; empty before the first was read."""
        return {
            f"{prefix}/{name}/{key}": float(norm[k])
            for key, norm in self._norms.items()
            for k, name in enumerate(self._networks)
        }

    def _trouble(self, step: int, values: dict[str, np.ndarray]) -> str:
        findings = [
            f"{name} on {finding}"
            for k, name in enumerate(self._networks)
            for finding, loss in zip(self._findings, values["cross_entropy"][k], strict=True)
            if not math.isfinite(loss)
        ]
        others = [
            f"{name}'s {key.replace('_', ' ')}"
            for key in ("divergence", "gradient_norm")
            for k, name in enumerate(self._networks)
            if not math.isfinite(values[key][k])
        ]
        what = f"the loss is not finite for {first_ten(findings)}" if findings else f"not finite: {first_ten(others)}"
        return (
            f"step {step + 1}: {what}; the last good checkpoint is kept\n"
            f"films of the batch, {first_ten(self._films_of(step))}; "
            "a lower learning_rate or clip_norm=1 is what helps most often"
        )


def film_names_of(config: ConfigDict, train_films: tuple[str, ...]) -> Callable[[int], list[str]]:
    """The function from a step to the names of its batch's films."""
    return lambda step: [train_films[k] for k in batch_films(config.seed, step, config.batch_size, len(train_films))]


def choose_groups(config: ConfigDict, films: Prepared, saved: Metadata | None) -> Groups | None:
    """The groups of the branched networks: those in a checkpoint that the run goes on from, else found anew.

    None where no network has branches.
    """
    if saved is not None:
        return groups_in(saved)
    if all(network.shared_stages is None for network in config.networks.values()):
        return None
    return find_groups(config, films)


def open_teacher(config: ConfigDict, films: Prepared) -> Teaches:
    """What a distillation's students learn from: another run's networks, or a table of targets; None otherwise."""
    if config.regime != "distill":
        return None
    if is_table(config.teacher):
        return read_targets(config, films)
    teacher = restore_others(config.teacher, "teacher", config)
    if teacher.findings != films.findings:
        raise ConfigError(
            f"config.teacher: {config.teacher} predicts {first_ten(list(teacher.findings))}, these films have "
            f"{first_ten(list(films.findings))}; a teacher predicts the same findings in the same order"
        )
    return teacher


def context(config: ConfigDict, films: Prepared, groups: Groups | None, teacher: Teaches) -> Context:
    """What the steps know beside the config."""
    teaching = None
    if isinstance(teacher, Restored):
        seen = teacher.config.data
        teaching = Teacher({name: model.apply for name, model in teacher.models.items()}, seen.mean, seen.std)
    return Context(config, known_prevalence(films.parts["train"].labels), groups, teaching)


def checkpoint_metadata(
    config: ConfigDict, films: Prepared, groups: Groups | None, teacher: Teaches,
    step: int, history: list[dict[str, float]], window: Window,
) -> Metadata:  # fmt: skip
    """What a checkpoint says beside its arrays: films, findings, groups, teacher, seeds, history, measurements."""
    return {
        "data": films.digest,
        "findings": list(films.findings),
        "groups": groups and names(groups, films.findings),
        "teacher": teacher and teacher.digest,
        "seeds": {"run": config.seed, **{name: network.seed for name, network in config.networks.items()}},
        "history": history,
        "window": window.state(),
    }


def check_teacher(metadata: Metadata, teacher: Teaches, config: ConfigDict) -> None:
    """Makes sure that a run goes on under the teacher with which it began.

    Raises:
      CheckpointError: it is another, or has learned since.
    """
    if metadata["teacher"] != (teacher and teacher.digest):
        what = "targets" if isinstance(teacher, Targets) else "weights"
        raise CheckpointError(
            f"{config.teacher} does not hold the {what} that this run learned from until now\n"
            "bring the old teacher back, or train anew in another --workdir"
        )


def digest_of(metadata: Metadata | None, config: ConfigDict, workdir: Path) -> str:
    """The digest of a checkpoint's films, by which prepared ones are found when the raw ones are gone.

    "" without a checkpoint, or where `data.dir` is not the run's own: a folder that is newly named must be there.
    """
    if metadata is None:  # then the first process has perhaps not yet written the config
        return ""
    return metadata["data"] if read_config(workdir).data.dir == config.data.dir else ""


def other_films(workdir: Path) -> str:
    """How a run is evaluated on films that are not its own, as the end of a message."""
    return (
        "other films are evaluated by\n"
        f"python -m chexjax.evaluation.evaluate --checkpoint={workdir} --source=NAME --dir=FOLDER --out=DIR"
    )


def check_metadata(metadata: Metadata, films: Prepared, workdir: Path) -> list[dict[str, float]]:
    """The history in a checkpoint's metadata, after making sure that the films are still those it was trained on.

    Raises:
      CheckpointError: they are not.
    """
    if metadata["data"] != films.digest:
        raise CheckpointError(
            f"{workdir} was trained on prepared films {metadata['data']}, but the data are now {films.digest}: "
            "the folder, a list or an option of the preparation has changed\n"
            f"bring the old films back, or train anew in another --workdir; {other_films(workdir)}"
        )
    if findings_in(metadata) != films.findings:
        raise CheckpointError(
            f"{workdir} was trained on {first_ten(list(findings_in(metadata)))}, but the data now have "
            f"{first_ten(list(films.findings))}\nbring the old films back, or train anew in another --workdir"
        )
    return list(metadata["history"])


def describe(
    config: ConfigDict, films: Prepared, states: dict[str, TrainState], groups: Groups | None, teacher: Teaches,
    steps: int, eval_steps: int,
) -> None:  # fmt: skip
    """Says what is about to be trained, where, and how long."""
    for name, state in states.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        say(f"{name}: {model_title(config.networks[name])}, {count:,} parameters")
    for group in names(groups, films.findings) if groups else ():
        say(f"group: {', '.join(group)}")
    if isinstance(teacher, Targets):
        say(f"teacher: {teacher.path}, {teacher.films:,} of {len(films.parts['train'].names):,} training films")
    elif teacher is not None:
        titles = ", ".join(model_title(network) for network in teacher.config.networks.values())
        say(f"teacher: {titles}, step {teacher.step} of {teacher.workdir}")
    if dtype_of(config).name != config.dtype:
        say(f"config.dtype is {config.dtype}, which this CPU does not multiply: the run computes in float32")
    device = jax.devices()[0]
    say(
        f"{config.regime} training, {steps} steps of {config.batch_size} films on {jax.device_count()} x "
        f"{device.device_kind} in {dtype_of(config).name}, float32 products at {config.precision} precision, "
        f"validated every {eval_steps}"
    )


def rate_groups(network: ConfigDict, model: AnyNetwork, state: TrainState, shape: tuple[int, ...]) -> list[str]:
    """Which parameters learn at which rate and which decay, in words; nothing where all are treated alike."""
    lines = []
    if network.layer_decay < 1:
        groups = depth_groups(model, shape)
        factors = depth_factors(groups, network.layer_decay)
        parts = [f"{factors[group[0]]:.3g} from {group[0]}" for group in groups]
        lines.append(f"learning rate times {', '.join(parts)}, 1 for the head")
    if network.weight_decay:
        leaves = jax.tree_util.tree_leaves_with_path(state.params)
        kernels = sum(decays(path) for path, _ in leaves)
        others = f"none of {len(leaves) - kernels} vectors (norms, biases)"
        lines.append(f"weight decay {network.weight_decay:g} of {kernels} kernels, {others}")
    return lines


# What the fields of `chexjax.configs.common` name as the table whose keys they take.
TABLES: Final[dict[str, Collection[str]]] = {
    "STEPS": STEPS,
    "LOSSES": LOSSES,
    "DIVERGENCES": DIVERGENCES,
    "SOFT_TARGETS": SOFT_TARGETS,
    "VIEWS": VIEWS,
    "SOURCES": SOURCES,
}


def check(config: ConfigDict) -> None:
    """Refuses values that no run can use, before anything is read or written.

    Raises:
      ConfigError: names the field, what it holds and what it may hold.
    """
    common.check(config, TABLES)
    named_sources(config.data)
    Uncertain.parse(config.data.uncertain)
    for name, network in config.networks.items():
        create_network(config, name, groups=((0,),), num_outputs=1)  # raises ConfigError if a name is unknown
        create_optimizer(network, steps=1)
    check_groups(config)
    if config.batch_size % config.accumulate:
        raise ConfigError(
            f"config.accumulate is {config.accumulate}, which does not divide config.batch_size, {config.batch_size}"
        )
    if config.regime == "distill" and not config.teacher:
        raise ConfigError(
            "config.regime is distill, but no teacher is given; add --config.teacher=WORKDIR, or =FILE.csv"
        )
    if config.regime == "mutual" and len(config.networks) < 2:
        raise ConfigError("config.regime is mutual, which takes at least two networks; config.networks has one")
