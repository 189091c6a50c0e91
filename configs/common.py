"""What the configs share: every field a run reads, with its default."""

from ml_collections import ConfigDict, config_dict


def base() -> ConfigDict:
    """A supervised run of one ResNet-18; the config files change what they are about."""
    config = ConfigDict()
    config.regime = "supervised"  # a key of training.steps.STEPS
    config.seed = 0  # of the data's order, the augmentation and, with each network's own, the first weights
    config.networks = ConfigDict({"net1": network("resnet18", seed=1)})
    config.init_from = ""  # imported weights, or an earlier run's workdir, that new networks start from
    config.freeze_trunk_epochs = 0.0  # for so many epochs the heads learn alone
    config.mutual = ConfigDict(
        {
            "updates": "alternating",  # or "simultaneous" (a field "update" would hide a method of ConfigDict)
            "kl": "bernoulli",  # or "softmax", the report's literal form
            "weight": 1.0,
            "temperature": 1.0,
        }
    )
    config.teacher = ""  # what a student learns from: the workdir of a run, or a predictions CSV of the training films
    config.distill = ConfigDict(
        {
            "targets": "bernoulli",  # or "softmax"
            "weight": 0.5,  # of the teacher's targets; the labels have the rest
            "temperature": 2.0,
        }
    )
    config.loss = ConfigDict(
        {
            "name": "bce",  # or "weighted_bce", "focal", "asymmetric": a key of training.objectives.LOSSES
            "label_smoothing": 0.0,
            "positive_weight_limit": 20.0,  # weighted_bce: negatives over positives of the training films, at most this
            "gamma": 2.0,  # focal
            "gamma_positive": 1.0,  # asymmetric, this and the next two
            "gamma_negative": 4.0,
            "margin": 0.05,
        }
    )
    config.groups = ConfigDict(
        {
            "by": "report",  # groups of findings for branches: or "cooccurrence", "embeddings", see training.groups
            "count": 4,  # of the groups that are clustered
            "network": "",  # embeddings: the workdir of the network whose they are
        }
    )

    config.batch_size = 16  # over all devices
    config.epochs = 3
    config.max_steps = 0  # stop here, whatever the epochs; 0: no such limit
    config.eval_epochs = 1.0  # validate and save every so many epochs
    config.convergence_tolerance = 0.001  # nats of validation loss, for the epoch of convergence
    config.dtype = "float32"  # or "bfloat16"; parameters and statistics stay float32
    config.sync_batch_norm = True  # statistics over all devices: the result does not depend on their number
    config.views = "one"  # of a film in evaluation, averaged: or "flip" (2 passes a film), "ten-crop" (10)
    config.steps_per_call = 4  # at most, without a word from the host; where the films are on the device
    config.log_every = 20  # steps between TensorBoard points

    config.data = ConfigDict()
    config.data.source = "phantom"  # simulated films, or "chestxray14": an NIH folder
    config.data.dir = ""  # the NIH folder
    config.data.cache = ""  # where prepared films are kept; "": $CHEXJAX_CACHE or ~/.cache/chexjax
    config.data.size = 64  # side of the films in pixels
    config.data.clean = False  # remove bright artefacts by scan line first
    config.data.split = "official"  # or "arnoweng", "folds": see data.nih.read_splits
    config.data.lists = ""  # the folder of the split's lists; "": data.dir
    config.data.val_fraction = 0.1
    config.data.split_seed = 0
    config.data.skip_unreadable = False
    config.data.mean = 0.5  # of grey / 255, as the network sees films: (grey / 255 - mean) / std
    config.data.std = 0.25
    config.data.threads = 2
    config.data.residence = "auto"  # of training films: "device" memory, "host" (streamed), or where they fit
    config.data.phantom = ConfigDict({"count": 2400, "size": 64, "seed": 0, "rare_share": 0.07, "artifact_share": 0.2})

    config.augment = ConfigDict(
        {
            "crop": 0.92,  # least side that is kept; 1: all of it
            "flip": 0.0,  # probability of a mirror image
            "rotation": 4.0,  # degrees to either side
            "brightness": 0.1,  # relative, to either side
            "contrast": 0.1,
        }
    )
    return config


def network(model: str, seed: int) -> ConfigDict:
    """One network: its architecture, its first weights, its optimiser."""
    return ConfigDict(
        {
            "model": model,  # a key of models.TRUNKS
            "width": 1.0,  # multiplies every channel count
            "shared_stages": config_dict.placeholder(int),  # None: one head; 0: specialists; 1 to 3: branches after it
            "seed": seed,
            "optimizer": "adamw",  # or "adam", "sgd"
            "init_from": "",  # this network's own start; "": config.init_from
            "learning_rate": 5e-4,
            "head_learning_rate": 0.0,  # of the head, at the same schedule; 0: as the trunk's
            "schedule": "cosine",  # or "linear", "constant", "onecycle"
            "warmup_steps": 0,
            "weight_decay": 1e-4,
            "momentum": 0.9,  # sgd
            "clip_norm": 0.0,  # of the gradient over all parameters; 0: none
            "average_decay": 0.0,  # of the moving average that evaluation then uses; 0: none
        }
    )


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
