"""How far ten steps of a network here and in torch are apart: `python -m tests.torch_parity NAME float64`.

In float32 the input of some ReLU rounds to the other side of zero in half of all batches, and the gradients of two
right programs then differ by a per cent. In float64 that does not happen, and nothing is left to doubt. It takes a
process of its own, in which jax has float64, and what the package calls float32 is float64.
"""

import copy
import json
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

NAME, DTYPE = sys.argv[1:]
if DTYPE == "float64":
    jax.config.update("jax_enable_x64", True)
    jnp.float32 = jnp.float64  # before flax and chexjax are imported, whose defaults name it

import numpy as np
import optax
import torch
from flax.traverse_util import flatten_dict

from chexjax.models import NETWORKS, create_model
from chexjax.models.densenet import DenseNet
from chexjax.models.efficientnet import EfficientNet
from chexjax.models.swin import Swin
from chexjax.models.torch_names import to_torch
from chexjax.models.torch_weights import convert_state_dict, torch_names
from chexjax.models.vit import ViT
from tests.torch_networks import DENSENETS, ROWS, create_torch_network, shake

SIDE, FILMS, STEPS = 64, 6, 10
CONSTANTS = ("num_batches_tracked", "relative_position_index")
# At 0.002 ten steps of ResNet-50 on six films are chaos: torch parts from itself by 5 % after a push of 1e-13. So do
# those of the smaller networks in float32.
RATE = 0.0002 if NAME == "resnet50" or DTYPE == "float32" else 0.002


# Small networks of the families, and none of their films goes past a block: torch draws by other keys.
for family, trunk in {
    "densenet121": partial(DenseNet, stages=DENSENETS["densenet-tiny"]),
    "efficientnet_b0": partial(EfficientNet, stages=ROWS, drop=0.0, dropout=0.0),
    "vit_base_16": partial(ViT, stages=(1, 1), heads=2, grid=SIDE // 16, drop=0.0),
    "swin_t": partial(Swin, stages=(2, 2), heads=1, drop=0.0),
}.items():
    tiny = f"{family.rstrip('0123456789').split('_')[0]}-tiny"
    NETWORKS[tiny] = replace(NETWORKS[family], trunk=trunk)


def torch_step(network, optimizer, x: np.ndarray, y: np.ndarray) -> float:
    """The loss before the step; the gradients stay in the parameters."""
    optimizer.zero_grad()
    logits = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(y))
    loss.backward()
    optimizer.step()
    return loss.item()


def losses_in_float64(network, films: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Torch's own ten steps, from where `network` stands."""
    network = copy.deepcopy(network).double()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)
    batches = zip(films.astype(np.float64), labels.astype(np.float64), strict=True)
    return np.array([torch_step(network, optimizer, x, y) for x, y in batches])


def main(name: str) -> dict[str, float]:
    """The largest relative differences over ten SGD steps: of losses, of first gradients, of weights and statistics.

    And "rounding", how far torch's losses are from its own in float64.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)  # its threads wait for one another, for minutes where processors are few and busy
    network = shake(create_torch_network(name)).train()
    start = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    network.to(getattr(torch, DTYPE))
    variables = jax.tree.map(lambda x: x.astype(DTYPE), convert_state_dict(name, start))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    random = np.random.default_rng(1)
    films = random.normal(size=(STEPS, FILMS, SIDE, SIDE, 3)).astype(DTYPE)
    labels = (random.uniform(size=(STEPS, FILMS, 14)) < 0.3).astype(DTYPE)
    exact = losses_in_float64(network, films, labels)
    model, rule = create_model(name, dtype=DTYPE), optax.sgd(RATE, momentum=0.9)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9)

    @jax.jit
    def step(params, batch_stats, memory, x, y):
        def objective(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, mutated = model.apply(variables, x, train=True, mutable=["batch_stats"])
            return optax.sigmoid_binary_cross_entropy(logits, y).mean(), mutated.get("batch_stats", {})

        (loss, stats), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        updates, memory = rule.update(gradients, memory)
        return optax.apply_updates(params, updates), stats, memory, loss, gradients

    def apart(ours, theirs) -> float:
        """Array by array the norm of the difference against the norm; the largest.

        What a batch norm takes off again has no gradient but rounding: a norm counts as a millionth of the largest.
        """
        least = 1e-6 * max(float(value.norm()) for value in theirs.values())
        flat = {path: np.asarray(x) for path, x in flatten_dict(ours).items()}
        slots = {slot.name: path for path, slot in torch_names(name).items()}
        errors = []
        for key, value in theirs.items():
            own, value = np.asarray(flat.pop(slots[key])), value.numpy()
            assert own.dtype == value.dtype == np.dtype(DTYPE), key
            own = to_torch(slots[key], own)
            errors.append(np.linalg.norm(own - value) / max(np.linalg.norm(value), least))
        assert not flat, f"torch has no {sorted(flat)}"
        return float(max(errors))

    memory, losses, found = rule.init(params), [], {}
    for x, y in zip(films, labels, strict=True):
        params, batch_stats, memory, loss, gradients = step(params, batch_stats, memory, x, y)
        losses.append((float(loss), torch_step(network, optimizer, x, y)))
        if len(losses) == 1:
            found["gradients"] = apart(
                {"params": gradients}, {key: value.grad for key, value in network.named_parameters()}
            )
    ours, theirs = np.array(losses).T
    found["losses"] = float(np.abs(ours / theirs - 1).max())
    found["rounding"] = float(np.abs(theirs / exact - 1).max())
    after = {key: value for key, value in network.state_dict().items() if not key.endswith(CONSTANTS)}
    found["weights and statistics"] = apart({"params": params, "batch_stats": batch_stats}, after)
    return found | {"moved": float(abs(theirs[-1] / theirs[0] - 1))}


if __name__ == "__main__":
    print(json.dumps(main(NAME)))
