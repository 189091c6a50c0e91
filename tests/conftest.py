"""Fixtures that every test folder shares. The suite runs on four virtual devices: sharding is the rule, not a case.

The whole suite (`python -m pytest`, no file named) runs in several processes, a file in one of them, where processors
and memory allow it.
"""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

# Three quarters of the suite is compilation, and the programs are small: XLA's CPU backend is told to optimise little,
# in less than half the time. With CHEXJAX_AS_USERS it compiles as it does for users.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag, and abort
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
FOUR_DEVICES = "--xla_force_host_platform_device_count=4"
AS_USERS = bool(os.environ.get("CHEXJAX_AS_USERS"))
GIVEN = os.environ.get("XLA_FLAGS", "")
for ours in (QUICK_TO_COMPILE, FOUR_DEVICES):  # which a process of pytest-xdist inherits
    GIVEN = GIVEN.replace(ours, "").strip()
os.environ["XLA_FLAGS"] = " ".join(["" if AS_USERS else QUICK_TO_COMPILE, GIVEN, FOUR_DEVICES])
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "chexjax-tests-xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

# What is started in the background (`nohup`, `&`) ignores Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest
from ml_collections import ConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent

from chexjax.configs import common, dml
from chexjax.models import NETWORKS, Architecture
from chexjax.models.resnet import BasicBlock, ResNet

MEMORY_A_PROCESS = 6 * 2**30  # bytes: what a half of the suite was seen to need, and half as much again


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Divides the whole suite among processes, unless `-n` or a debugger was asked for, or pytest-xdist is not here."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput")
    if not whole or not config.pluginmanager.hasplugin("xdist"):
        return
    if config.option.numprocesses is None and not config.option.usepdb:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
        count = min(os.cpu_count() or 1, memory // MEMORY_A_PROCESS)
        if count > 1:
            config.option.numprocesses, config.option.dist = count, "loadfile"
            # One that dies ends the suite: pytest-xdist would start another, and may wait for ever for what is lost.
            config.option.maxworkerrestart = "0"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked `as_users` runs in a process of its own, whose programs are compiled as users' are."""
    if AS_USERS or not pyfuncitem.get_closest_marker("as_users"):
        return None
    environment = {**os.environ, "CHEXJAX_AS_USERS": "1", "XLA_FLAGS": GIVEN}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    ended = subprocess.run(command, env=environment, cwd=pyfuncitem.config.rootpath, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return True


# A trunk that compiles in a second: the real five are met once, in tests/models.
NETWORKS["tiny"] = Architecture(partial(ResNet, stages=(1,), block=BasicBlock), "conv1")
NETWORKS["tiny2"] = Architecture(
    partial(ResNet, stages=(1, 1), block=BasicBlock), "conv1"
)  # one that can be cut in two


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Each compiled program holds hundreds of memory maps, of which Linux lets a process have 65,530."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(autouse=True)
def ctrl_c_as_before() -> Iterator[None]:
    """A command that ends, called by a test, leaves Ctrl-C to end the process at once: the tests' process here."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real NIH films, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("CHEXJAX_REAL_DATA", REPOSITORY.parent / "shared"))
    if not (folder / "nih-128").is_dir():
        pytest.skip(f"no real films: {folder}/nih-128 is absent (set CHEXJAX_REAL_DATA)")
    return folder


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An NIH-layout folder of 96 simulated films of 64 px. Not to be written to."""
    from chexjax.data.sources.phantom import write_films

    folder = tmp_path_factory.mktemp("phantom") / "nih"
    write_films(folder, count=96, size=64, seed=5, progress=False)
    return folder


def shrink(config: ConfigDict) -> ConfigDict:
    """A config of networks a few channels wide, that learn by SGD (Adam hides wrongly scaled gradients)."""
    for name in config.networks:
        config.networks[name].update({"model": "tiny", "width": 0.125, "optimizer": "sgd"})
        config.networks[name].update({"learning_rate": 0.05, "clip_norm": 1.0})
    config.batch_size = 8
    config.data.size = 32
    return config


@pytest.fixture
def small_dml() -> ConfigDict:
    """`configs/dml.py` with small networks on 32 px films, batches of 8."""
    return shrink(dml.get_config())


@pytest.fixture
def small_baseline() -> ConfigDict:
    """A supervised run of one small ResNet-18 on 32 px films, batches of 8."""
    return shrink(common.base())


@pytest.fixture(scope="session")
def one_device() -> list[jax.Device]:
    """The first device alone, for pmapped functions whose batch is small."""
    return jax.devices()[:1]
