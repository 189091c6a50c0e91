"""What the configs share: every field a run reads, with its default and the values it may have."""

from collections.abc import Collection, Mapping
from typing import Final

from ml_collections import ConfigDict

from chexjax.configs import fields
from chexjax.configs.fields import Fields, choice, number, path, switch, text
from chexjax.errors import ConfigError

MOST_STEPS: Final = 2**31 - 1  # a step's number is an int32

FIELDS: Final[Fields] = {
    "regime": choice("supervised", keys_of="STEPS"),  # of training.steps
    # Of the data's order, the augmentation and, with each network's own, the first weights.
    "seed": number(0, 0, 2**31 - 1),
    "init_from": path(),  # imported weights, or an earlier run's workdir, that new networks start from
    "freeze_trunk_epochs": number(0.0, 0, 1e6),  # for so many epochs the heads learn alone
    "mutual": {
        "updates": choice("alternating", "simultaneous"),  # a field "update" would hide a method of ConfigDict
        "kl": choice("bernoulli", keys_of="DIVERGENCES"),  # "softmax" is the report's literal form
        "weight": number(1.0, 0, 1e6),
        "temperature": number(1.0, above=0, most=1e6),
    },
    # What a student learns from: the workdir of a run, or a predictions CSV of the training films.
    "teacher": path(),
    "distill": {
        "targets": choice("bernoulli", keys_of="SOFT_TARGETS"),
        "weight": number(0.5, 0, 1),  # of the teacher's targets; the labels have the rest
        "temperature": number(2.0, above=0, most=1e6),
    },
    "loss": {
        "name": choice("bce", keys_of="LOSSES"),  # of training.objectives
        "label_smoothing": number(0.0, 0, 0.999),
        # weighted_bce: negatives over positives of the training films, at most this
        "positive_weight_limit": number(20.0, above=0, most=1e6),
        "gamma": number(2.0, 0, 100),  # focal
        "gamma_positive": number(1.0, 0, 100),  # asymmetric, this and the next two
        "gamma_negative": number(4.0, 0, 100),
        "margin": number(0.05, 0, 0.999),
    },
    "groups": {
        "by": choice("report", "cooccurrence", "embeddings"),  # groups of findings for branches, see training.groups
        "count": number(4, 1, 1000),  # of the groups that are clustered; at most the findings
        "network": path(),  # embeddings: the workdir of the network that embeds the films
    },
    "batch_size": number(16, 1, 2**20),  # of one update, over all devices
    # Equal parts in which a batch is computed, one after another, to save memory. The update is that of the whole
    # batch, but BatchNorm sees a part at a time: see `training.steps.in_parts`.
    "accumulate": number(1, 1, 2**20, since="0.2"),
    "epochs": number(3.0, above=0, most=1e6),
    "max_steps": number(0, 0, MOST_STEPS),  # stop here, whatever the epochs; 0: no such limit
    "eval_epochs": number(1.0, above=0, most=1e6),  # validate and save every so many epochs
    "convergence_tolerance": number(0.001, 0, 1000),  # nats of validation loss, for the epoch of convergence
    "dtype": choice("float32", "bfloat16"),  # of the computation; parameters and statistics stay float32
    # Of products of float32 in training, see `devices.at_precision`; evaluation and prediction have the highest.
    "precision": choice("default", "high", "highest", since="0.2"),
    "sync_batch_norm": switch(True),  # statistics over all devices: the result does not depend on their number
    "views": choice("one", keys_of="VIEWS"),  # of a film in evaluation, averaged: "flip" takes 2 passes, "ten-crop" 10
    "steps_per_call": number(4, 1, 2**16),  # at most, without a word from the host; where the films are on the device
    "log_every": number(20, 1, MOST_STEPS),  # steps between TensorBoard points
    "data": {
        "source": choice("phantom", keys_of="SOURCES"),  # simulated films; see data.sources
        "dir": path(),  # the source's folder
        "table": path(since="0.2"),  # its table of labels, where that is not in the folder; see data.sources.table
        "sources": text(since="0.2"),  # several in one set: NAME=FOLDER,NAME=FOLDER=WEIGHT in place of source and dir
        "findings": text(since="0.2"),  # which, in this order: A,B,C; "": those of the source
        "uncertain": text(since="0.2"),  # what -1 means: ignore, zero, one, 0.5, or zero,Edema=one; "": refuse it
        "films": choice("frontal", "all", since="0.2"),  # which views, of sources that tell
        "cache": path(),  # where prepared films are kept; "": $CHEXJAX_CACHE or ~/.cache/chexjax
        "size": number(64, 32, 4096),  # side of the films in pixels; the trunks shrink them 32 times
        "enlarge": choice("bicubic", "area", since="0.2", former="area"),  # of films below that: data.recipe.shrink
        "clean": switch(False),  # remove bright artefacts by scan line first, as the next five say: chexjax.scanline
        "threshold": number(50, 1, 255, since="0.2"),  # grey levels
        "max_width": number(40, 1, 2**16, since="0.2"),  # pixels
        "edge_span": number(1, 1, 64, since="0.2"),  # pixels
        "axes": choice("rows", "columns", "rows,columns", "columns,rows", since="0.2"),
        "spare_wide": switch(False, since="0.2"),
        "split": choice("official", "arnoweng", "folds", "random"),  # see data.sources.splits
        "lists": path(),  # the folder of the split's lists; "": data.dir
        "val_fraction": number(0.1, 0, 1),
        "split_seed": number(0, 0, 2**63 - 1),
        "skip_unreadable": switch(False),
        "mean": number(0.5, 0, 1),  # of grey / 255, as the network sees films: (grey / 255 - mean) / std
        "std": number(0.25, above=0, most=1000),
        "threads": number(2, 1, 1024),
        "residence": choice(
            "auto", "host", "device"
        ),  # of training films: streamed, in device memory, or where they fit
        "phantom": {
            "count": number(2400, 1, 10**7),
            "size": number(64, 32, 4096),
            "seed": number(0, 0, 2**63 - 1),
            "rare_share": number(0.07, 0, 0.15),  # of films with the rarest finding; 0: the real prevalences
            "artifact_share": number(0.2, 0, 1),
        },
    },
    "augment": {
        "crop": number(0.92, 0.1, 1),  # least side that is kept; 1: all of it
        "flip": number(0.0, 0, 1),  # probability of a mirror image
        "rotation": number(4.0, 0, 180),  # degrees to either side
        "blur": number(0.0, 0, 16, since="0.2"),  # greatest standard deviation of a Gaussian, in pixels; 0: none
        "brightness": number(0.1, 0, 1),  # relative, to either side
        "contrast": number(0.1, 0, 1),
        # Films and labels mixed with another film's, by a share from Beta(a, a): this is a; 0: not mixed. See data.mix.
        "mixup": number(0.0, 0, 1000, since="0.2"),
        "cutmix": number(0.0, 0, 1000, since="0.2"),  # a rectangle of the other film; with mixup: one or the other
    },
}

NETWORK: Final[Fields] = {
    "model": text(),  # a key of models.NETWORKS
    "width": number(1.0, 0.01, 16),  # multiplies every channel count
    "shared_stages": number(None, 0, 16),  # None: one head; 0: specialists; 1 to 3: branches after it
    "seed": number(0, 0, 2**31 - 1),
    "optimizer": choice("adamw", "adam", "sgd"),
    "init_from": path(),  # this network's own start; "": config.init_from
    "learning_rate": number(5e-4, 0, 1000),
    "layer_decay": number(1.0, above=0, most=1, since="0.2"),  # of the rate, a stage nearer to the stem; 1: one rate
    "head_learning_rate": number(0.0, 0, 1000),  # of the head, at the same schedule; 0: as the trunk's
    "schedule": choice("cosine", "linear", "constant", "onecycle"),
    "warmup_steps": number(0, 0, MOST_STEPS),
    "restart_steps": number(0, 0, MOST_STEPS, since="0.2"),  # schedule and warm-up begin anew after so many; 0: never
    "weight_decay": number(1e-4, 0, 1000),
    "momentum": number(0.9, 0, 0.999999),  # sgd
    # Of the gradient over all parameters (heads and trunk apart with freeze_trunk_epochs, each branch apart); 0: none.
    "clip_norm": number(0.0, 0, 1e9),
    "average_decay": number(0.0, 0, 0.999999),  # of the moving average that evaluation then uses; 0: none
}

# The fields that may be None.
OPTIONAL: Final = tuple(name for name, field in NETWORK.items() if field.default is None)


def base() -> ConfigDict:
    """A supervised run of one ResNet-18; the config files change what they are about."""
    config = fields.defaults(FIELDS)
    config.networks = ConfigDict({"net1": network("resnet18", seed=1)})
    return config


def network(model: str, seed: int) -> ConfigDict:
    """One network: its architecture, its first weights, its optimiser."""
    config = fields.defaults(NETWORK)
    config.update({"model": model, "seed": seed})
    return config


def chestxray14(config: ConfigDict) -> ConfigDict:
    """The real set: 224 px, the CheXNet recipe's sizes."""
    config.data.source = "chestxray14"
    config.data.size = 224
    config.batch_size = 32
    config.epochs = 30
    config.augment.update({"crop": 0.8, "flip": 0.5, "rotation": 7.0})
    config.dtype = "bfloat16"
    for name in config.networks:
        config.networks[name].learning_rate = 1e-4
        config.networks[name].warmup_steps = 500
    return config


def complete(config: ConfigDict, later_only: bool = False) -> ConfigDict:
    """A copy in which every field that `config` lacks has its default; `later_only`: see `fields.complete`."""
    whole = config.copy_and_resolve_references()
    with whole.unlocked():
        fields.complete(whole, FIELDS, later_only)
        networks = whole.get("networks")
        for name in networks if isinstance(networks, ConfigDict) else ():
            if isinstance(networks[name], ConfigDict):
                fields.complete(networks[name], NETWORK, later_only)
    return whole


def retype(config: ConfigDict) -> ConfigDict:
    """The config, whose values went through JSON, with the fields' own types."""
    fields.retype(config, FIELDS)
    networks = config.get("networks")
    for name in networks if isinstance(networks, ConfigDict) else ():
        if isinstance(networks[name], ConfigDict):
            fields.retype(networks[name], NETWORK)
    return config


def check(config: ConfigDict, tables: Mapping[str, Collection[str]]) -> None:
    """Refuses a complete config that holds what no run can use; `tables` are those that the fields above name.

    Raises:
      ConfigError: names the field, what it holds and what it may hold.
    """
    networks = config.get("networks")
    if not isinstance(networks, ConfigDict) or not networks:
        raise ConfigError("config.networks holds no network; each is made by chexjax.configs.common.network")
    rest = ConfigDict({name: value for name, value in config.items() if name != "networks"})
    fields.check(rest, FIELDS, tables)
    for name in networks:
        fields.check(networks[name], NETWORK, tables, f"config.networks.{name}")
