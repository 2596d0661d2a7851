"""What `auto` chooses of small networks in the naming of libraries, by kind."""

import pytest
import torch
import transformers as hf
from support.configs import SMALL, llama_config
from support.trees import probed
from torch import nn

from cka_notebook._models.layer_tree import LayerTree

TWO = SMALL | {"num_hidden_layers": 2}


class ResnetBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.conv2(self.conv1(x).relu())


class Level(nn.Module):
    """Holds lists of blocks and resampling, as in diffusers."""

    def __init__(self, resample=None):
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(), ResnetBlock()])
        self.resamplers = None
        if resample is not None:
            self.resamplers = nn.ModuleList([resample])

    def forward(self, x):
        for block in [*self.resnets, *(self.resamplers or [])]:
            x = block(x)
        return x


class AttentionLevel(Level):
    def __init__(self):
        super().__init__()
        self.attentions = nn.ModuleList([ResnetBlock(), ResnetBlock()])

    def forward(self, x):
        for block, attention in zip(self.resnets, self.attentions, strict=True):
            x = attention(block(x))
        return x


class DiffusionUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time_embedding = nn.Linear(1, 4)
        self.conv_in = nn.Conv2d(3, 4, 3, padding=1)
        self.down_blocks = nn.ModuleList(
            [Level(nn.AvgPool2d(2)), Level(nn.AvgPool2d(2)), AttentionLevel()]
        )
        self.mid_block = Level()
        self.up_blocks = nn.ModuleList(
            [AttentionLevel(), Level(nn.Upsample(None, 2)), Level(nn.Upsample(None, 2))]
        )
        self.conv_norm_out, self.conv_out = nn.GroupNorm(2, 4), nn.Conv2d(4, 3, 1)

    def forward(self, x):
        time = self.time_embedding(x.mean((1, 2, 3))[:, None])
        x = self.conv_in(x) + time[..., None, None]
        for level in [*self.down_blocks, self.mid_block, *self.up_blocks]:
            x = level(x)
        return self.conv_out(self.conv_norm_out(x))


class ConvNorm(nn.Sequential):
    def __init__(self, side=1):
        padding = side // 2
        super().__init__(nn.Conv2d(4, 4, side, padding=padding), nn.BatchNorm2d(4))


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner_blocks = nn.ModuleList([ConvNorm(), ConvNorm()])
        self.layer_blocks = nn.ModuleList([ConvNorm(3), ConvNorm(3)])

    def forward(self, x):
        pairs = zip(self.layer_blocks, self.inner_blocks, strict=True)
        return [layer(inner(x)) for layer, inner in pairs]


class RPNHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(ConvNorm(3))
        self.bbox_pred = nn.Conv2d(4, 4, 1)

    def forward(self, maps):
        return [self.bbox_pred(self.conv(x)) for x in maps]


class Detector(nn.Module):
    """In torchvision's naming: a backbone, a pyramid, a head called on each map."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.features = nn.Sequential(
            nn.Conv2d(3, 4, 1), *[ResnetBlock() for _ in range(3)]
        )
        self.backbone.fpn = Pyramid()
        self.rpn = nn.Module()
        self.rpn.head = RPNHead()

    def forward(self, x):
        return self.rpn.head(self.backbone.fpn(self.backbone.features(x)))[0]


class GCNConv(nn.Module):
    """In torch_geometric's naming."""

    def __init__(self, features, hidden):
        super().__init__()
        self.lin = nn.Linear(features, hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x):
        return self.lin(x) + self.bias


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = GCNConv(6, 8), GCNConv(8, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x).relu())


class ListedGCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(6, 8), GCNConv(8, 8)])
        self.lin = nn.Linear(8, 3)

    def forward(self, x):
        for conv in self.convs:
            x = conv(x).relu()
        return self.lin(x)


class TwoTowers(nn.Module):
    """A vision tower that gets no input is larger than the two blocks that run."""

    def __init__(self):
        super().__init__()
        self.vision_tower = nn.Sequential(*[nn.Linear(6, 6) for _ in range(50)])
        self.embed = nn.Linear(6, 6)
        self.layers = nn.ModuleList([Mixer(), Mixer()])
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 9), nn.Linear(9, 6)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


IMAGES, ROWS = torch.randn(9, 3, 8, 8), torch.randn(9, 6)

LEVELS = (
    "conv_in down_blocks.0 down_blocks.1 down_blocks.2 mid_block up_blocks.0 "
    "up_blocks.1 up_blocks.2 conv_norm_out conv_out"
)

DETECTOR = (
    "backbone.features.0 backbone.features.1 backbone.features.2 backbone.features.3 "
    "backbone.fpn rpn.head"
)

PROBED = {
    "U-Net of diffusers": (DiffusionUNet, IMAGES, LEVELS),
    "detector of torchvision": (Detector, IMAGES, DETECTOR),
    "GCN": (GCN, ROWS, "conv1 conv2"),
    "GCN in a list": (ListedGCN, ROWS, "convs.0 convs.1 lin"),
    "a tower without inputs": (TwoTowers, ROWS, "embed layers.0 layers.1 head"),
}


@pytest.mark.parametrize("name", PROBED)
def test_networks_in_the_naming_of_libraries(name):
    make, batch, names = PROBED[name]
    assert probed(make(), batch).choose() == names.split()


def mpnet():
    return hf.MPNetModel(hf.MPNetConfig(**TWO))


BUILT = {
    "BERT": (
        lambda: hf.BertModel(hf.BertConfig(**TWO)),
        "embeddings encoder.layer.0 encoder.layer.1 pooler",
    ),
    "Llama": (
        lambda: hf.LlamaModel(llama_config(2)),
        "embed_tokens layers.0 layers.1 norm",
    ),
    "MPNet, with a bias of relative positions": (
        mpnet,
        "embeddings encoder.layer.0 encoder.layer.1 pooler",
    ),
    "OLMo, with a final norm without weights": (
        lambda: hf.OlmoModel(hf.OlmoConfig(**TWO)),
        "embed_tokens layers.0 layers.1 norm",
    ),
    "Mamba": (
        lambda: hf.MambaModel(
            hf.MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2)
        ),
        "embeddings layers.0 layers.1 norm_f",
    ),
    "Mixtral": (
        lambda: hf.MixtralModel(
            hf.MixtralConfig(**TWO, num_key_value_heads=2, num_local_experts=2)
        ),
        "embed_tokens layers.0 layers.1 norm",
    ),
}


@pytest.mark.parametrize("name", BUILT)
def test_two_blocks_of_language_models(name):
    make, names = BUILT[name]
    assert LayerTree(make()).choose() == names.split()


def test_one_block_called_twice_is_two_blocks():
    config = hf.AlbertConfig(**TWO, embedding_size=8)
    tree = probed(hf.AlbertModel(config), torch.randint(0, 100, (9, 5)))
    block = "encoder.albert_layer_groups.0.albert_layers.0"
    stem = "encoder.embedding_hidden_mapping_in"
    assert tree.choose() == [stem, f"{block}#0", f"{block}#1", "pooler"]


def test_a_part_that_does_not_call_its_own_parts_is_one_layer():
    class Whole(nn.Sequential):
        def forward(self, x):
            return torch.nn.functional.linear(x, self[0].weight)

    model = nn.Sequential(Whole(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 2))
    assert probed(model, ROWS).choose() == ["0", "2"]


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 8, batch_first=True) for _ in range(3)
        )

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x.mean(1)


class Towers(nn.Module):
    """Projects each tower's output at once, or both at the end."""

    def __init__(self, *, at_once):
        super().__init__()
        self.one, self.other, self.at_once = Tower(), Tower(), at_once
        self.to_one, self.to_other = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        one = self.one(x)
        one = self.to_one(one) if self.at_once else one
        other = self.to_other(self.other(x))
        return (one if self.at_once else self.to_one(one)) + other


@pytest.mark.parametrize("at_once", [True, False])
def test_the_projections_of_both_towers_are_kept(at_once):
    names = probed(Towers(at_once=at_once), torch.randn(8, 5, 10)).choose("auto")
    assert {"to_one", "to_other", "one.embed", "other.embed"} < set(names)
