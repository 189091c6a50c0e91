"""A bare PyTorch loop on noise, whose memory `benchmarks.memory` reads: nothing but torch is loaded.

    python -m benchmarks.torch_loop MODELS SIZE BATCH STEPS

Of several networks (`resnet18+resnet18`) each is moved on the labels in turn.
"""

import sys

import torch

from tests.torch_networks import create_torch_network


def main(models: str, size: int, batch: int, steps: int) -> None:
    """Steps by Adam in float32, channels last."""
    images = torch.randint(0, 256, (batch, 1, size, size), dtype=torch.uint8)
    labels = torch.randint(0, 2, (batch, 14)).float()
    networks = [create_torch_network(name, channels=1) for name in models.split("+")]
    optimizers = [torch.optim.Adam(network.parameters(), lr=5e-4) for network in networks]
    for network in networks:
        network.to(memory_format=torch.channels_last)
    for _ in range(steps):
        x = ((images.float() / 255.0 - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)
        for network, optimizer in zip(networks, optimizers, strict=True):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
