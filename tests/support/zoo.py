"""Small models, each built for one thing that goes wrong elsewhere."""

import pytest
import torch
from torch import nn


def mlp(width=16, inputs=10, outputs=5):
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.Tanh(),
        nn.Linear(width, 12),
        nn.Tanh(),
        nn.Linear(12, outputs),
    )


def inplace_mlp(inplace=True):
    return nn.Sequential(
        nn.Linear(10, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(inplace=inplace),
        nn.Linear(16, 12),
        nn.ReLU(inplace=inplace),
        nn.Linear(12, 5),
    )


class BasicBlock(nn.Module):
    """The names and the in-place operations of torchvision's."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A ResNet of basic blocks, ResNet-18 unless told otherwise.

    Names and in-place operations are torchvision's: one ReLU module is called twice,
    and what ``bn1`` and ``bn2`` returned is overwritten.
    """

    def __init__(self, width=8, blocks=(2, 2, 2, 2), classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        self.stages = [f"layer{stage + 1}" for stage in range(len(blocks))]
        for stage, count in enumerate(blocks):
            wide = width << stage
            members = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                members.append(BasicBlock(inputs, wide, stride))
                inputs = wide
            self.add_module(self.stages[stage], nn.Sequential(*members))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Reversed(nn.Module):
    """Defined in another order than called."""

    def __init__(self):
        super().__init__()
        self.b = nn.Linear(8, 5)
        self.a = nn.Linear(10, 8)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class SharedActivation(nn.Module):
    """One activation module, called three times."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(10, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.first(x))
        x = self.act(self.second(x))
        return self.act(self.third(x))


class Unused(nn.Module):
    """With modules that never run, and a list, which never runs itself."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.parts = nn.ModuleList([nn.Linear(10, 8), nn.Linear(8, 8)])
        self.named = nn.ModuleDict({"head": nn.Linear(8, 4), "idle": nn.Linear(8, 4)})

    def forward(self, x):
        for part in self.parts:
            x = torch.tanh(part(x))
        return self.named["head"](x)


class Tied(nn.Module):
    """One module registered under two names."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(8, 8)
        self.decode = self.encode
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.decode(torch.tanh(self.encode(x)))))


class TupleOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(10, 8)

    def forward(self, x):
        return None, self.linear(x), x.sum()


class DictOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 6)

    def forward(self, x):
        return {"count": torch.arange(len(x)), "body": self.linear(x)}


class ListOutput(nn.Module):
    def forward(self, x):
        return [x.argmax(1), torch.sin(x)]


class OddOutputs(nn.Module):
    """Outputs of every kind, one after the other."""

    def __init__(self):
        super().__init__()
        self.pair = TupleOutput()
        self.dict = DictOutput()
        self.list = ListOutput()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        body = self.dict(self.pair(x)[1])["body"]
        return self.head(self.list(body)[1])


class Returning(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Incomparable(nn.Module):
    """Layers whose outputs cannot be compared, beside one that can."""

    def __init__(self):
        super().__init__()
        self.integers = Returning(lambda x: x.argmax(1))
        self.flags = Returning(lambda x: x > 0)
        self.scalar = Returning(torch.mean)
        self.nothing = Returning(lambda _: None)
        self.words = Returning(lambda _: "words")
        self.empty = Returning(lambda _: ())
        self.complex = Returning(torch.fft.fft)
        self.sparse = Returning(lambda x: x.to_sparse())
        self.fixed = Returning(lambda _: torch.randn(7, 3))
        self.pooled = Returning(lambda x: x.mean(0))
        self.linear = nn.Linear(10, 4)

    def forward(self, x):
        for child in self.children():
            if child is not self.linear:
                child(x)
        return self.linear(x)


class Recurrent(nn.Module):
    """A recurrent layer with time first between layers with examples first."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.recurrent = kind(8, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        hidden, _ = self.recurrent(self.embed(x).transpose(0, 1))
        return self.head(hidden[-1])


class Attention(nn.Module):
    """`nn.MultiheadAttention` with tokens first, as its default is."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.attend = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).transpose(0, 1)
        return self.head(self.attend(x, x, x)[0].mean(0))


class SequenceFirst(nn.Module):
    """`nn.TransformerEncoderLayer`s with tokens first, as their default is."""

    def __init__(self, layers=2):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 16) for _ in range(layers)]
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).transpose(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(0))


class Windows(nn.Module):
    """Cuts each example into four windows and lays them along the batch axis."""

    def __init__(self):
        super().__init__()
        self.local = nn.Linear(5, 7)
        self.head = nn.Linear(28, 3)

    def forward(self, x):
        return self.head(self.local(x.reshape(-1, 5)).reshape(len(x), -1))


class Interleaved(nn.Module):
    """Like `Windows`, but with the windows, not the examples, outermost."""

    def __init__(self):
        super().__init__()
        self.local = nn.Linear(5, 7)
        self.head = nn.Linear(28, 3)

    def forward(self, x):
        windows = x.reshape(len(x), 4, 5).transpose(0, 1).reshape(-1, 5)
        parts = self.local(windows).reshape(4, len(x), 7)
        return self.head(parts.transpose(0, 1).reshape(len(x), -1))


class Dead(nn.Module):
    """A constant layer, a dead ReLU, and one that lives."""

    def __init__(self):
        super().__init__()
        self.constant = nn.Linear(10, 6)
        self.dead = nn.ReLU()
        self.alive = nn.Linear(10, 6)
        nn.init.zeros_(self.constant.weight)
        nn.init.normal_(self.constant.bias, 1e3, 1)

    def forward(self, x):
        self.constant(x)
        self.dead(-x.abs() - 1)
        return self.alive(x)


class Poisoned(nn.Module):
    """Returns NaN or Inf where the first feature is above a threshold."""

    def __init__(self, value=torch.nan, above=1e3):
        super().__init__()
        self.value, self.above = value, above
        self.before = nn.Linear(10, 8)
        self.poison = nn.Identity()
        self.bad = Returning(self._poisoned)

    def _poisoned(self, x):
        return torch.where(x[:, :1] > self.above, self.value, x[:, 1:])

    def forward(self, x):
        self.bad(x)
        return self.before(x)


class Offset(nn.Module):
    """A linear layer, and the same with a scale and an offset."""

    def __init__(self, scale=1.0, offset=0.0):
        super().__init__()
        self.plain = nn.Linear(10, 12)
        self.moved = Returning(lambda x: x * scale + offset)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.tanh(self.plain(x))
        self.moved(x)
        return self.head(x)


class ConvBlock(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """The common shape: down, bottom, up with skips, head."""

    def __init__(self, width=4):
        super().__init__()
        self.down1 = ConvBlock(3, width)
        self.down2 = ConvBlock(width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.bottom = ConvBlock(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.dec2 = ConvBlock(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.dec1 = ConvBlock(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.dec2(torch.cat([self.up2(x), second], 1))
        x = self.dec1(torch.cat([self.up1(x), first], 1))
        return self.head(x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Linear(6, 5)
        self.right = nn.Linear(4, 5)

    def forward(self, left, right, scale=1.0):
        return self.left(left) + scale * self.right(right)


class Deep(nn.Module):
    """``depth`` equal blocks and a head."""

    def __init__(self, depth, width=4):
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)]
        )

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class DeepLeaves(nn.Module):
    """``depth`` linear layers in a list."""

    def __init__(self, depth, width=4):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])

    def forward(self, x):
        for part in self.parts:
            x = torch.tanh(part(x))
        return x


class ThreeLinear(nn.Module):
    """From six features to three, as wide in between as is asked."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, 3)

    def forward(self, x):
        return self.third(self.second(self.first(x).tanh()).relu())


def batches_of(count=4, size=16, features=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, features, generator=generator) for _ in range(count)]


def images_of(count=2, size=8, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, side, side, generator=generator) for _ in range(count)]


def quantised(model):
    """Linear layers of int8, or a skipped test where torch has no such."""
    quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if quantize is None or torch.backends.quantized.engine == "none":
        pytest.skip("this torch quantises no layers")
    return quantize(model, {nn.Linear}, dtype=torch.qint8)


class Around(nn.Module):
    """A layer that gets what a function makes of the batch."""

    def __init__(self, arrange):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.inside = nn.Linear(6, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.arrange = arrange

    def forward(self, x):
        x = torch.tanh(self.before(x))
        self.inside(self.arrange(x))
        return self.head(x)
