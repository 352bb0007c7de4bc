"""The TEM study's image networks: ResNet-18, SENet-18 and GoogLeNet for 32×32 images.

Layers and numbers of parameters are the TEM authors' (arXiv 2108.00951, their code).
Weights are drawn as in He et al., ICCV 2015 (fan-in, truncated normal, scale 2), which
is our choice, because the networks are relu networks and the study's initialisation is
not documented; biases are zero.

References:
    He et al., CVPR 2016, arXiv 1512.03385 (ResNet); Hu et al., CVPR 2018, arXiv
    1709.01507 (squeeze and excitation); Szegedy et al., CVPR 2015, arXiv 1409.4842,
    table 1 (GoogLeNet).
"""

from __future__ import annotations

import keras
from keras import layers

from tem_studies.workloads.weighted_layers import Weighted, forked

# (filters, stride of the first block) of the four stages; two blocks in each.
_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
_REDUCTION = 16  # of squeeze and excitation: Hu et al., section 6.1

# 1×1; 3×3 after its reduction; 5×5 (two 3×3) after its reduction; 1×1 after pooling.
_INCEPTIONS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)
_POOLED_AFTER = (2, 7)  # the second and the seventh module


def resnet_18(x: keras.KerasTensor, weighted: Weighted) -> keras.KerasTensor:
    """Basic blocks 2-2-2-2, no bias in convolutions: 11,173,962 on 32×32×3."""
    weighted.scale = 2.0
    x = _convolution_norm_relu(x, weighted, 64, 3)
    for filters, stride in _blocks():
        shortcut = x
        if stride > 1 or x.shape[-1] != filters:
            shortcut = weighted.convolution(x, filters, 1, stride, use_bias=False)
            shortcut = weighted.batch_norm(shortcut)
        x = _convolution_norm_relu(x, weighted, filters, 3, stride)
        x = weighted.convolution(x, filters, 3, use_bias=False)
        x = layers.ReLU()(layers.Add()([weighted.batch_norm(x), shortcut]))
    return weighted.dense(layers.GlobalAveragePooling2D()(x))


def senet_18(x: keras.KerasTensor, weighted: Weighted) -> keras.KerasTensor:
    """Pre-activation blocks with squeeze and excitation: 11,260,354 on 32×32×3."""
    weighted.scale = 2.0
    x = _convolution_norm_relu(x, weighted, 64, 3)
    for filters, stride in _blocks():
        activated = layers.ReLU()(weighted.batch_norm(x))
        shortcut = x
        if stride > 1 or x.shape[-1] != filters:
            shortcut = weighted.convolution(
                activated, filters, 1, stride, use_bias=False
            )
        x = weighted.convolution(activated, filters, 3, stride, use_bias=False)
        x = layers.ReLU()(weighted.batch_norm(x))
        x = weighted.convolution(x, filters, 3, use_bias=False)
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
        squeezed = weighted.convolution(squeezed, filters // _REDUCTION, 1)
        scales = weighted.convolution(layers.ReLU()(squeezed), filters, 1)
        x = layers.Multiply()([x, layers.Activation("sigmoid")(scales)])
        x = layers.Add()([x, shortcut])
    return weighted.dense(layers.GlobalAveragePooling2D()(x))


def googlenet(x: keras.KerasTensor, weighted: Weighted) -> keras.KerasTensor:
    """Nine inception modules, biases everywhere: 6,166,250 on 32×32×3."""
    weighted.scale = 2.0
    x = _convolution_norm_relu(x, weighted, 192, 3, use_bias=True)
    for number, widths in enumerate(_INCEPTIONS, start=1):
        one, three_before, three, five_before, five, pooled = widths
        branches = []
        first, rest = forked(x)
        second, rest = forked(rest)
        third, fourth = forked(rest)
        for start, sizes in (
            (first, [(one, 1)]),
            (second, [(three_before, 1), (three, 3)]),
            (third, [(five_before, 1), (five, 3), (five, 3)]),
            (layers.MaxPooling2D(3, 1, "same")(fourth), [(pooled, 1)]),
        ):
            branch = start
            for filters, size in sizes:
                branch = _convolution_norm_relu(
                    branch, weighted, filters, size, use_bias=True
                )
            branches.append(branch)
        x = layers.Concatenate()(branches)
        if number in _POOLED_AFTER:
            x = layers.MaxPooling2D(3, 2, "same")(x)
    return weighted.dense(layers.GlobalAveragePooling2D()(x))


def _blocks() -> list[tuple[int, int]]:
    """(filters, stride) of the eight blocks of ResNet-18 and SENet-18."""
    return [
        (f, s)
        for filters, stride in _STAGES
        for f, s in ((filters, stride), (filters, 1))
    ]


def _convolution_norm_relu(x, weighted, filters, size, stride=1, use_bias=False):
    x = weighted.convolution(x, filters, size, stride, use_bias=use_bias)
    return layers.ReLU()(weighted.batch_norm(x))
