"""Several wrapped optimizers in one network, on two real workers."""

import numpy as np
import pytest

from tests.test_several_optimizers import TRAININGS


@pytest.mark.parametrize("train", TRAININGS)
def test_several_optimizers_without_loss_are_plain_keras_bit_for_bit(
    two_workers, train
):
    """On both workers; the addition of two numbers commutes."""
    plain, wrapped = (two_workers.run(train, how) for how in ("plain", "lossless"))
    for ours in wrapped:
        assert ours["history"] == plain[0]["history"]
        assert ours["iterations"] == [8, 8]
        for key in ("weights", "slots"):
            for one, other in zip(ours[key], plain[0][key], strict=True):
                np.testing.assert_array_equal(one, other)
