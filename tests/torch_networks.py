"""The networks in torch: torchvision's where it imports, else twins written from the papers with its names.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (Table 1; stride on the 3x3 convolution), and Huang
et al., "Densely Connected Convolutional Networks", CVPR 2017 (Table 1, "BC").
"""

import pytest
import torch
from torch import nn

try:
    import timm
except Exception:  # it imports torchvision
    timm = None
try:
    import torchvision
except Exception:  # torchvision that does not fit torch fails in many ways when it is imported
    torchvision = None

RESNETS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
DENSENETS = {
    "densenet121": (6, 12, 24, 16),
    "densenet169": (6, 12, 32, 32),
    "densenet-tiny": (2, 2, 2, 2),  # the same layers: 121 compiles for a minute
}


# A small EfficientNet, as `chexjax.models.efficientnet.STAGES`.
ROWS = (((1, 3, 1, 16, 1),), ((6, 5, 2, 24, 2),))
# What torchvision or timm call networks of ours.
TORCHVISION = {"vit_base_16": "vit_b_16"}
TIMM = {
    "vit_small_16": "vit_small_patch16_224",
    "vit_small_14": "vit_small_patch14_dinov2",
    "vit_base_14": "vit_base_patch14_dinov2",
}


def small_efficientnet(num_outputs: int) -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    settings, inputs = [], 32
    for stage in ROWS:
        for expansion, size, stride, channels, count in stage:
            settings.append(MBConvConfig(expansion, size, stride, inputs, channels, count, 1.0, 1.0))
            inputs = channels
    return EfficientNet(settings, dropout=0.0, stochastic_depth_prob=0.0, num_classes=num_outputs)


def small_vit(num_outputs: int) -> nn.Module:
    return torchvision.models.VisionTransformer(64, 16, 2, 2, 128, 512, num_classes=num_outputs)


def small_swin(num_outputs: int) -> nn.Module:
    sizes = {"patch_size": [4, 4], "embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2], "window_size": [7, 7]}
    return torchvision.models.SwinTransformer(**sizes, stochastic_depth_prob=0.0, num_classes=num_outputs)


SMALL = {"efficientnet-tiny": small_efficientnet, "vit-tiny": small_vit, "swin-tiny": small_swin}


def create_torch_network(name: str, num_outputs: int = 14, channels: int = 3) -> nn.Module:
    """A network as torchvision, or timm, makes it, with its random weights; its stem for `channels`."""
    if name in TIMM:
        if timm is None:
            pytest.skip("timm is not installed: pip install '.[timm]'")
        network = timm.create_model(TIMM[name], num_classes=num_outputs)
    elif torchvision is not None and TORCHVISION.get(name, name) in torchvision.models.list_models():
        network = torchvision.models.get_model(TORCHVISION.get(name, name), num_classes=num_outputs)
    elif torchvision is not None and name in SMALL:
        network = SMALL[name](num_outputs)
    elif name not in RESNETS and name not in DENSENETS:
        pytest.skip(f"torchvision does not import, and there is no twin of {name}")
    else:
        network = ResNet(name, num_outputs) if name in RESNETS else DenseNet(DENSENETS[name], num_outputs)
    if channels != 3:
        grey_stem(network, channels)
    return network


def grey_stem(network: nn.Module, channels: int) -> None:
    """Another first convolution: the first that sees three channels."""
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out")
    network.set_submodule(name, new)


def shake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every norm a gamma, beta, mean and variance, every layer's scale a value, that no new network has."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=random)
                module.bias.uniform_(-0.3, 0.3, generator=random)
                module.running_mean.uniform_(-0.3, 0.3, generator=random)
                module.running_var.uniform_(0.5, 2.0, generator=random)
            elif isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5, generator=random)
                module.bias.uniform_(-0.3, 0.3, generator=random)
            elif hasattr(module, "layer_scale"):
                module.layer_scale.uniform_(0.1, 0.5, generator=random)
            elif hasattr(module, "gamma"):
                module.gamma.uniform_(0.1, 0.5, generator=random)
        for name, parameter in network.named_parameters():
            if name.startswith("heads.") or name in ("class_token", "cls_token"):  # zeros in a new network
                parameter.normal_(0.0, 0.1, generator=random)
    return network


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, (size - 1) // 2, bias=False)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 and four times the channels."""

    def __init__(self, inputs: int, channels: int, stride: int, bottleneck: bool):
        super().__init__()
        outputs = 4 * channels if bottleneck else channels
        first = 1 if bottleneck else 3
        self.conv1 = conv(inputs, channels, first, 1 if bottleneck else stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride if bottleneck else 1)
        self.bn2 = nn.BatchNorm2d(channels)
        if bottleneck:
            self.conv3 = conv(channels, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.bottleneck = bottleneck
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, name: str, num_outputs: int):
        super().__init__()
        bottleneck = name == "resnet50"
        self.conv1, self.bn1 = conv(3, 64, 7, 2), nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, blocks in enumerate(RESNETS[name]):
            layer = nn.Sequential()
            for index in range(blocks):
                channels, stride = 64 * 2**stage, 2 if stage and not index else 1
                layer.append(Block(inputs, channels, stride, bottleneck))
                inputs = 4 * channels if bottleneck else channels
            setattr(self, f"layer{stage + 1}", layer)
        self.fc = nn.Linear(inputs, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, 128, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), conv(128, 32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...], num_outputs: int):
        super().__init__()
        self.features = nn.Sequential()
        for name, module in {
            "conv0": conv(3, 64, 7, 2),
            "norm0": nn.BatchNorm2d(64),
            "relu0": nn.ReLU(),
            "pool0": nn.MaxPool2d(3, 2, 1),
        }.items():
            self.features.add_module(name, module)
        channels = 64
        for number, layers in enumerate(blocks, start=1):
            block = nn.Sequential()
            for layer in range(1, layers + 1):
                block.add_module(f"denselayer{layer}", DenseLayer(channels))
                channels += 32
            self.features.add_module(f"denseblock{number}", block)
            if number < len(blocks):
                transition = nn.Sequential()
                transition.add_module("norm", nn.BatchNorm2d(channels))
                transition.add_module("relu", nn.ReLU())
                transition.add_module("conv", conv(channels, channels // 2, 1))
                transition.add_module("pool", nn.AvgPool2d(2, 2))
                self.features.add_module(f"transition{number}", transition)
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))
