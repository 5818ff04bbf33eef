"""The simulator is frozen: shipped weights and tables belong to one version of its images."""

import numpy as np
import pytest

from fairrecon_lab.simulate import SIMULATOR_VERSION, simulate

# Mean of each 16 x 16 block of four patients (seed 1, 64 px), row by row, in units of 0.0001, at version "1".
FROZEN = {
    "brain": """
        28 1848 1873 0 672 3797 3916 523 1171 4036 3819 1176 27 2213 2039 98
        0 2032 1884 0 744 4114 3939 661 1233 3448 3879 661 61 1903 1573 0
        76 2591 2175 12 900 4039 3746 439 1418 3777 4245 968 64 2415 2313 13
        236 2053 1823 0 919 3433 3473 615 1178 3614 3664 1243 35 2044 2065 57
    """,
    "chest": """
        1913 4198 3784 1202 4722 4436 4463 4369 4651 5970 7721 4262 7234 8143 8008 5701
        3080 5754 5712 3479 5352 3967 3937 5436 4618 3842 4679 4467 7539 8862 8876 7656
        2350 5218 4204 1443 4381 4331 3921 4751 3635 5411 5432 3975 7897 8875 8654 6183
        1170 3808 3684 1473 4289 3433 3782 3912 3948 4863 6439 4085 5306 7927 7780 6463
    """,
}


@pytest.mark.parametrize("name", FROZEN)
def test_images_are_those_of_the_version_that_they_claim(name):
    assert SIMULATOR_VERSION == "1", "new images: measure FROZEN again, and retrain what is shipped"
    images = np.stack([item[0] for item in simulate(name, 4, seed=1, size=64, n_slices=1)]).astype(float)
    blocks = images.reshape(4, 4, 16, 4, 16).mean(axis=(2, 4)).ravel()
    frozen = np.array(FROZEN[name].split(), dtype=float) / 1e4
    assert np.abs(blocks - frozen).max() < 3e-4, "the images changed: raise SIMULATOR_VERSION"
