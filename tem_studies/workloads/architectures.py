"""The DPS study's networks, as Keras models that return logits; and the list of all.

Layers, order of operations and initialisation follow the authors' code (arXiv
2003.11316): weights by variance scaling (fan-in, truncated normal, scale 1), biases
zero. `ARCHITECTURES` lists them and those of deep_networks.py by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
from keras import layers

from tem_studies.refusal import Refusal
from tem_studies.workloads import deep_networks, own_names, own_parts
from tem_studies.workloads.data_files import CLASSES
from tem_studies.workloads.weighted_layers import Weighted

Shape = tuple[int, ...]


def build(
    arch: str,
    input_shape: Shape,
    seed: int,
    classes: int = CLASSES,
    dtype_policy: str | None = None,
) -> keras.Model:
    """Builds a network.

    Args:
        arch: A key of `ARCHITECTURES`, or a user's own, module:function.
        input_shape: (height, width, channels) of the images; of a user's own network
            that of any examples.
        seed: Integer >= 0. The same seed draws the same initial weights.
        classes: Number of classes.
        dtype_policy: Keras's, of all layers; None: float32.

    Returns:
        A model from float32 (batch, height, width, channels), standardised, to logits
        (batch, classes), of the policy's dtype.

    Raises:
        Refusal: the images are too small for the network, or none; a user's own is
            no network for them.
    """
    if own_names.is_own(arch):
        with _dtype_policy(dtype_policy):
            return own_parts.make_network(arch, tuple(input_shape), classes, seed)
    if arch not in ARCHITECTURES:
        raise Refusal(
            f"`arch` must be one of {', '.join(ARCHITECTURES)}. "
            f"Received: arch={arch!r}."
        )
    least, network = ARCHITECTURES[arch]
    if len(input_shape) != 3:
        raise Refusal(
            f"`arch` {arch} takes images of a height, a width and channels. Received: "
            f"examples of the shape {tuple(input_shape)}. Pass --arch module:function."
        )
    if min(input_shape[:2]) < least:
        raise Refusal(
            f"`arch` {arch} takes images of at least {least} x {least} pixels. "
            f"Received: images of the shape {tuple(input_shape)}."
        )
    with _dtype_policy(dtype_policy):
        inputs = keras.Input(input_shape)
        outputs = network(inputs, Weighted(seed, classes))
        return keras.Model(inputs, outputs, name=arch.replace("-", "_"))


@contextmanager
def _dtype_policy(name: str | None) -> Iterator[None]:
    """A block in which layers have a policy of Keras's; None: float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name or "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _simple_cnn(x: keras.KerasTensor, weighted: Weighted) -> keras.KerasTensor:
    """Two valid 5×5 convolutions, pooling, one dense layer: 62,346 on 28×28×1."""
    for filters in (32, 64):
        x = layers.ReLU()(weighted.convolution(x, filters, 5, padding="valid"))
        x = layers.MaxPooling2D(2)(x)
    return weighted.dense(layers.Flatten()(x))


def _resnet_8(x: keras.KerasTensor, weighted: Weighted) -> keras.KerasTensor:
    """Three pre-activation blocks without batch norm: 75,050 on 32×32×3."""
    x = weighted.convolution(x, 16, 3)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        activated = layers.ReLU()(x)
        if stride == 1:
            shortcut = x
        else:
            # The authors' shortcut has no parameters: the activated input, averaged,
            # with as many zero channels behind it.
            shortcut = layers.AveragePooling2D(stride, padding="same")(activated)
            shortcut = layers.Concatenate()([shortcut, keras.ops.zeros_like(shortcut)])
        x = layers.ReLU()(weighted.convolution(activated, filters, 3, stride))
        x = layers.Add()([weighted.convolution(x, filters, 3), shortcut])
    return weighted.dense(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))


# name -> (least height and width of an image, the network). 16 is the least that leaves
# Simple-CNN's second pooling a pixel; ResNet-8 halves twice, ResNet-18 and SENet-18
# three times, GoogLeNet twice.
ARCHITECTURES: dict[str, tuple[int, Callable]] = {
    "simple-cnn": (16, _simple_cnn),
    "resnet-8": (4, _resnet_8),
    "resnet-18": (8, deep_networks.resnet_18),
    "senet-18": (8, deep_networks.senet_18),
    "googlenet": (4, deep_networks.googlenet),
}
