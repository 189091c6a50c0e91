"""What `import chexjax` gives, and what it does not load."""

import subprocess
import sys

import pytest

import chexjax


@pytest.mark.parametrize("name", chexjax.__all__)
def test_each_name_is_the_one_of_its_module(name: str) -> None:
    from chexjax.findings import FINDINGS
    from chexjax.models import create_model
    from chexjax.predict import Classifier
    from chexjax.scanline import remove_artifacts

    names = {"FINDINGS": FINDINGS, "create_model": create_model, "Classifier": Classifier}
    names |= {"remove_artifacts": remove_artifacts, "__version__": "0.2.0"}
    assert getattr(chexjax, name) == names[name]
    assert name in dir(chexjax)


def test_nothing_is_loaded_before_its_first_use() -> None:
    program = """
import sys, chexjax
assert not {"jax", "numpy"} & set(sys.modules), "import chexjax"
assert "FINDINGS" in dir(chexjax)
assert len(chexjax.FINDINGS) == 14
assert not {"jax", "numpy"} & set(sys.modules), "FINDINGS"
from chexjax import remove_artifacts
assert "flax" not in sys.modules, "remove_artifacts"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_other_names_are_none() -> None:
    with pytest.raises(AttributeError, match="module 'chexjax' has no attribute 'classify'"):
        chexjax.classify  # noqa: B018
    with pytest.raises(ImportError):
        from chexjax import classify  # noqa: F401
