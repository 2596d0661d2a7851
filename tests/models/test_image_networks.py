"""What `auto` chooses of networks of timm: stem, blocks, final norm and head, in order.

The networks run on the meta device: shapes are computed, numbers are not.
"""

import re

import pytest
from support.image_networks import tree_of

GOLDEN = {
    "resnet18": "maxpool layer1.0-1 layer2.0-1 layer3.0-1 layer4.0-1 global_pool fc",
    "efficientnet_b0": (
        "bn1 blocks.0.0 blocks.1.0-1 blocks.2.0-1 blocks.3.0-2 blocks.4.0-2 "
        "blocks.5.0-3 blocks.6.0 conv_head bn2 global_pool classifier"
    ),
    "efficientnetv2_rw_t": (
        "bn1 blocks.0.0-1 blocks.1.0-3 blocks.2.0-3 blocks.3.0-5 blocks.4.0-8 "
        "blocks.5.0-13 conv_head bn2 global_pool classifier"
    ),
    "mobilenetv3_small_100": (
        "bn1 blocks.0.0 blocks.1.0-1 blocks.2.0-2 blocks.3.0-1 blocks.4.0-2 "
        "blocks.5.0 global_pool conv_head classifier"
    ),
    "tf_mobilenetv3_small_minimal_100": (
        "bn1 blocks.0.0 blocks.1.0-1 blocks.2.0-2 blocks.3.0-1 blocks.4.0-2 "
        "blocks.5.0 global_pool conv_head classifier"
    ),
    "inception_v3": (
        "Pool2 Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d "
        "Mixed_6e Mixed_7a Mixed_7b Mixed_7c global_pool fc"
    ),
    "inception_v4": "features.2-21 global_pool last_linear",
    "xception41": "stem blocks.0-12 head",
    "regnetx_002": "stem s1.b1 s2.b1 s3.b1-4 s4.b1-7 head",
    "pvt_v2_b0": (
        "patch_embed stages.0.blocks.0-1 stages.0.norm stages.1.downsample "
        "stages.1.blocks.0-1 stages.1.norm stages.2.downsample stages.2.blocks.0-1 "
        "stages.2.norm stages.3.downsample stages.3.blocks.0-1 stages.3.norm head"
    ),
    "davit_tiny": (
        "stem stages.0.blocks.0 stages.1.downsample stages.1.blocks.0 "
        "stages.2.downsample stages.2.blocks.0-2 stages.3.downsample "
        "stages.3.blocks.0 head"
    ),
    "darknet53": (
        "stem stages.0.blocks.0 stages.1.conv_down stages.1.blocks.0-1 "
        "stages.2.conv_down stages.2.blocks.0-7 stages.3.conv_down "
        "stages.3.blocks.0-7 stages.4.conv_down stages.4.blocks.0-3 head"
    ),
    "cspresnet50": (
        "stem stages.0.blocks.0-2 stages.0.conv_transition stages.1.conv_exp "
        "stages.1.blocks.0-2 stages.1.conv_transition stages.2.conv_exp "
        "stages.2.blocks.0-4 stages.2.conv_transition stages.3.conv_exp "
        "stages.3.blocks.0-1 stages.3.conv_transition head"
    ),
    "cs3darknet_s": (
        "stem stages.0.blocks.0 stages.0.conv_transition stages.1.conv_exp "
        "stages.1.blocks.0-2 stages.1.conv_transition stages.2.conv_exp "
        "stages.2.blocks.0-3 stages.2.conv_transition stages.3.conv_exp "
        "stages.3.blocks.0 stages.3.conv_transition head"
    ),
    "vovnet39a": (
        "stem stages.0.blocks.0 stages.1.blocks.0 stages.2.blocks.0-1 "
        "stages.3.blocks.0-1 head"
    ),
    "ese_vovnet19b_dw": (
        "stem stages.0.blocks.0 stages.1.blocks.0 stages.2.blocks.0 "
        "stages.3.blocks.0 head"
    ),
    "convmixer_768_32": "stem blocks.0-31 global_pool head",
    "resmlp_12_224": "stem blocks.0-11 norm head",
    "mixer_s32_224": "stem blocks.0-7 norm head",
    "vit_tiny_patch16_224": "patch_embed blocks.0-11 norm head",
    "swin_tiny_patch4_window7_224": (
        "patch_embed layers.0.blocks.0-1 layers.1.downsample layers.1.blocks.0-1 "
        "layers.2.downsample layers.2.blocks.0-5 layers.3.downsample "
        "layers.3.blocks.0-1 norm head"
    ),
    "xcit_nano_12_p16_224": "patch_embed blocks.0-11 cls_attn_blocks.0-1 norm head",
    "hiera_tiny_224": "patch_embed blocks.0-11 head",
    "levit_128s": (
        "stem stages.0.blocks.0-1 stages.1.downsample stages.1.blocks.0-2 "
        "stages.2.downsample stages.2.blocks.0-3 head head_dist"
    ),
    "efficientvit_b0": (
        "stem.in_conv stem.res0 stages.0.blocks.0-1 stages.1.blocks.0-1 "
        "stages.2.blocks.0-2 stages.3.blocks.0-2 head"
    ),
    "mobilevit_xxs": (
        "stem stages.0.0 stages.1.0-2 stages.2.0-1 stages.3.0-1 stages.4.0-1 "
        "final_conv head"
    ),
    "fastvit_t8": (
        "stem stages.0.blocks.0-1 stages.1.downsample stages.1.blocks.0-1 "
        "stages.2.downsample stages.2.blocks.0-3 stages.3.downsample "
        "stages.3.blocks.0-1 final_conv head"
    ),
    "nest_tiny": (
        "patch_embed levels.0.transformer_encoder.0-1 levels.1.pool "
        "levels.1.transformer_encoder.0-1 levels.2.pool "
        "levels.2.transformer_encoder.0-7 norm global_pool head"
    ),
    "pit_ti_224": (
        "patch_embed transformers.0.blocks.0-1 transformers.1.pool "
        "transformers.1.blocks.0-5 transformers.2.pool transformers.2.blocks.0-3 "
        "norm head"
    ),
    "halonet26t": "stem stages.0.0-1 stages.1.0-1 stages.2.0-1 stages.3.0-1 head",
    "densenet121": (
        "features.pool0 features.denseblock1 features.transition1 "
        "features.denseblock2 features.transition2 features.denseblock3 "
        "features.transition3 features.denseblock4 features.norm5 global_pool "
        "classifier"
    ),
    "ghostnetv2_100": (
        "act1 blocks.0.0 blocks.1.0 blocks.2.0 blocks.3.0 blocks.4.0 blocks.5.0 "
        "blocks.6.0-4 blocks.7.0 blocks.8.0-3 blocks.9.0 global_pool conv_head "
        "classifier"
    ),
    "repvgg_a0": "stem stages.0.0-1 stages.1.0-3 stages.2.0-13 stages.3.0 head",
    "convnext_atto": (
        "stem stages.0.blocks.0-1 stages.1.downsample stages.1.blocks.0-1 "
        "stages.2.downsample stages.2.blocks.0-5 stages.3.downsample "
        "stages.3.blocks.0-1 head"
    ),
    "vgg11": (
        "features.0 features.3 features.6 features.8 features.11 features.13 "
        "features.16 features.18 pre_logits.fc1-2 head.fc"
    ),
}
"""Names of layers; "b.0-2" stands for b.0, b.1 and b.2."""


def spelled_out(names):
    for name in names.split():
        run = re.fullmatch(r"(.*?)(\d+)-(\d+)", name)
        if run is None:
            yield name
        else:
            stem, first, last = run.groups()
            yield from (f"{stem}{i}" for i in range(int(first), int(last) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_auto_chooses_what_a_researcher_of_the_architecture_would(name):
    tree = tree_of(name)
    assert tree.choose() == list(spelled_out(GOLDEN[name]))
    assert tree.auto_notes() == []
