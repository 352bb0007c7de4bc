"""The variables of ResNet-18 in its form for CIFAR: their shapes alone."""

from __future__ import annotations


def resnet18_shapes(classes: int = 10) -> list[tuple[int, ...]]:
    """Of 62 variables, as Keras has them; 11,173,962 entries with 10 classes."""
    shapes: list[tuple[int, ...]] = [(3, 3, 3, 64), (64,), (64,)]
    before = 64
    for width in (64, 128, 256, 512):
        norm = ((width,), (width,))
        for block in range(2):
            shapes += [(3, 3, before, width), *norm, (3, 3, width, width), *norm]
            if block == 0 and before != width:
                shapes += [(before, width), *norm]
            before = width
    return [*shapes, (512, classes), (classes,)]
