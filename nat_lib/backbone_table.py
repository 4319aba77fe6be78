"""Where the torchvision models of the AEP study are cut into stages: one row per network.

Source: thesis chapter 4; the stages are those of the notebook published with AEP, arXiv:2301.12168.
"""

from typing import NamedTuple

from nat_lib.errors import Refusal


class Backbone(NamedTuple):
    """Where a torchvision model is cut.  Parts are named as in "conv1+bn1", "features[0]",
    "features[1:10]".

    builder  : name of the model in torchvision.models
    stem     : its first module is made anew: another number of input channels, random weights even
               when fine-tuning
    stages   : one exit reads the output of each
    head     : key of `backbones.HEADS`
    baseline : the network whose single-exit baseline this one shares, because the layers are the
               same; None: its own
    """

    builder: str
    stem: str
    stages: tuple
    head: str
    baseline: str | None = None


BACKBONES = {
    "ResNet50": Backbone(
        "resnet50", "conv1+bn1+relu+maxpool", ("layer1", "layer2", "layer3", "layer4"), "linear"
    ),
    "VGG16": Backbone(
        "vgg16",
        "features[0]",
        ("features[1:10]", "features[10:17]", "features[17:24]", "features[24:31]"),
        "linear",
    ),
    "VGG16full": Backbone(
        "vgg16",
        "features[0]",
        (
            "features[1:5]",
            "features[5:10]",
            "features[10:17]",
            "features[17:24]",
            "features[24:31]",
        ),
        "linear",
        "VGG16",
    ),
    "DenseNet169": Backbone(
        "densenet169",
        "features[0:4]",
        (
            "features.denseblock1+features.transition1",
            "features.denseblock2+features.transition2",
            "features.denseblock3+features.transition3",
            "features.denseblock4+features.norm5",
        ),
        "relu",
    ),
    "MobileNetV3Small": Backbone(
        "mobilenet_v3_small",
        "features[0]",
        ("features[1:4]", "features[4:7]", "features[7:9]", "features[9:12]"),
        "mobilenet_v3",
    ),
    "MobileNetV3Smallfull": Backbone(
        "mobilenet_v3_small",
        "features[0]",
        ("features[1]", "features[2:4]", "features[4:7]", "features[7:9]", "features[9:12]"),
        "mobilenet_v3",
        "MobileNetV3Small",
    ),
    "EfficientNetB5": Backbone(
        "efficientnet_b5",
        "features[0]",
        ("features[1:3]", "features[3:5]", "features[5]", "features[6:8]"),
        "efficientnet",
    ),
    "EfficientNetB5full": Backbone(
        "efficientnet_b5",
        "features[0]",
        tuple(f"features[{i}]" for i in range(1, 8)),
        "efficientnet",
        "EfficientNetB5",
    ),
}


def row_of(name):
    if name not in BACKBONES:
        raise Refusal(
            f"unknown network {name!r}: choose one of {', '.join(BACKBONES)}, or add a row to "
            "BACKBONES"
        )
    return BACKBONES[name]


def baseline_of(name):
    """The network whose single-exit version is the baseline of this one."""
    return row_of(name).baseline or name
