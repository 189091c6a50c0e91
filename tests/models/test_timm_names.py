"""timm's state dicts: read and written by name, and the logits that timm's own networks give."""

import warnings

import jax
import numpy as np
import pytest

from chexjax.errors import CheckpointError, ConfigError
from chexjax.models import create_model
from chexjax.models.torch_weights import convert_state_dict, to_state_dict

torch = pytest.importorskip("torch", reason="torch is not installed: pip install '.[torch]'")
timm = pytest.importorskip("timm", reason="timm is not installed: pip install '.[timm]'")

from tests.models.test_torch_weights import logits_of, numpy_dict  # noqa: E402  # it imports torch
from tests.torch_networks import shake  # noqa: E402  # so does this

TIMM = {
    "resnet18": "resnet18",
    "densenet121": "densenet121",
    "mobilenet_v2": "mobilenetv2_100",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_b3": "efficientnet_b3",
    "convnext_tiny": "convnext_tiny",
    "convnext_small": "convnext_small",
    "swin_t": "swin_tiny_patch4_window7_224",
}
# The deeper of a family at 64 px, where they compile sooner.
SIZES = {name: 64 if name in ("densenet121", "efficientnet_b3", "convnext_small") else 224 for name in TIMM}


@pytest.mark.parametrize("name", TIMM)
def test_timms_weights_give_timms_logits_and_go_back(name: str) -> None:
    network = shake(timm.create_model(TIMM[name], num_classes=14))
    weights = numpy_dict(network)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        variables = convert_state_dict(name, weights)
    # A tf_efficientnet's file looks the same, and gives other logits: that is always said.
    assert [("tf_efficientnet" in str(warning.message)) for warning in caught] == [True] * name.startswith("eff")
    x = np.random.default_rng(1).normal(size=(2, SIZES[name], SIZES[name], 3)).astype(np.float32)
    expected = logits_of(network, x)
    found = jax.jit(create_model(name).apply)(variables, x)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())

    back = to_state_dict(name, variables, channels=3, library="timm")
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(back[key], value)


def test_what_timm_calls_alike_but_builds_otherwise_is_refused() -> None:
    newer = numpy_dict(timm.create_model("convnextv2_tiny", num_classes=14))
    with pytest.raises(CheckpointError, match=r"unexpected 36: stages\.0\.blocks\.0\.mlp\.grn"):
        convert_state_dict("convnext_tiny", newer)
    wider = numpy_dict(timm.create_model("mobilenetv2_140", num_classes=14))
    with pytest.raises(CheckpointError, match=r"misshaped 260: conv_stem\.weight \(48, 3, 3, 3\) for \(32, 3, 3, 3\)"):
        convert_state_dict("mobilenet_v2", wider)


def test_the_network_that_a_file_holds_is_named() -> None:
    weights = numpy_dict(timm.create_model("efficientnet_b0", num_classes=14))
    with pytest.raises(CheckpointError, match="they have the names of efficientnet_b0"):
        convert_state_dict("resnet18", weights)


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(ConfigError, match="'transformers' are not known; there are torchvision, timm"):
        to_state_dict("swin_t", {}, 3, library="transformers")
