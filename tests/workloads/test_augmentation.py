"""Augmented images against crops, flips and rotations written out."""

import numpy as np
import pytest
import tensorflow as tf

from tem_studies.workloads import augmentation
from tem_studies.workloads.examples import Share

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 32, 32, 3), dtype=np.uint8)
DRAWS = np.random.default_rng(1).random((40, 4)).astype(np.float32)
UNTURNED = 0.5  # of the angle


def test_crops_and_flips_are_those_of_a_padded_image():
    got = augmentation.augment(tf.constant(IMAGES), tf.constant(DRAWS), rotates=False)
    assert got.dtype == tf.uint8
    for image, draws, result in zip(IMAGES, DRAWS, got.numpy(), strict=True):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        top, left = (draws[:2] * 9).astype(int)
        crop = padded[top : top + 32, left : left + 32]
        np.testing.assert_array_equal(result, crop[:, ::-1] if draws[2] < 0.5 else crop)


def test_angle_0_turns_nothing():
    draws = DRAWS.copy()
    draws[:, 3] = UNTURNED
    turned, plain = (
        augmentation.augment(tf.constant(IMAGES), tf.constant(draws), rotates)
        for rotates in (True, False)
    )
    np.testing.assert_array_equal(turned, plain)


@pytest.mark.parametrize("angle", [-15.0, -7.0, 4.0, 15.0])
def test_rotation_is_about_the_middle_and_black_outside(angle):
    from scipy import ndimage

    # Neither shifted nor mirrored.
    draws = np.float32([[0.5, 0.5, 0.9, (angle / 15 + 1) / 2]])
    smooth = ndimage.gaussian_filter(IMAGES[0].astype(float), (4, 4, 0))
    smooth = np.rint(1 + 254 * (smooth - smooth.min()) / np.ptp(smooth)).astype(
        np.uint8
    )
    (got,) = augmentation.augment(tf.constant([smooth]), tf.constant(draws), True)
    want = ndimage.rotate(smooth, angle, order=0, reshape=False)
    other = ndimage.rotate(smooth, -angle, order=0, reshape=False)
    got = got.numpy().astype(int)
    # Nearest neighbours may round the other way on a few pixels, and SciPy's image ends
    # at the middle of its last pixel.
    agrees = [np.mean(np.abs(got - w).max(axis=-1) <= 1) for w in (want, other)]
    assert max(agrees) > 0.9
    # Where the turned pixel's middle lies in none of the image's pixels.
    right, up = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)
    source = (right + 1j * up) * np.exp(1j * np.deg2rad(angle))
    outside = np.maximum(abs(source.real), abs(source.imag)) > 16
    black = (got == 0).all(axis=-1)
    assert min((black != outside).mean(), (black != outside[::-1]).mean()) < 0.005


def test_draws_are_a_function_of_seed_and_step():
    def of(seed, step):
        share = Share(tf.constant(0), 1, tf.constant(step, tf.int64))
        return augmentation.draw(share.seed(seed), 12).numpy()

    np.testing.assert_array_equal(of(3, 5), of(3, 5))
    assert (of(3, 5) != of(3, 6)).all()
    assert (of(3, 5) != of(4, 5)).all()


def test_every_offset_and_both_directions_come_up_equally_often():
    draws = augmentation.draw(tf.constant([1, 2]), 20_000).numpy()
    counts = np.bincount((draws[:, 0] * 9).astype(int), minlength=9)
    # 20,000 / 9 each; five deviations of a binomial count.
    assert len(counts) == 9
    assert abs(counts - 20_000 / 9).max() < 5 * np.sqrt(20_000 / 9)
    assert abs((draws[:, 2] < 0.5).mean() - 0.5) < 5 * 0.5 / np.sqrt(20_000)
