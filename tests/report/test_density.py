import numpy as np
import pytest
from scipy.stats import gaussian_kde

from kis_jax.scan.density import gaussian_density


@pytest.mark.parametrize("size", [2, 50, 3000])
@pytest.mark.parametrize("spread", [1e-3, 1.0])
def test_it_is_scipys_estimate(size: int, spread: float) -> None:
    sample = spread * np.random.default_rng(size).standard_t(2, size=size)
    points = np.linspace(sample.min() - spread, sample.max() + spread, 257)
    expected = gaussian_kde(sample)(points)
    np.testing.assert_allclose(
        gaussian_density(sample, points), expected, rtol=1e-12, atol=1e-15 * expected.max()
    )


def test_it_integrates_to_one() -> None:
    sample = np.random.default_rng(0).normal(size=500)
    points = np.linspace(-8, 8, 4001)
    assert np.trapezoid(gaussian_density(sample, points), points) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("sample", [[], [1.0], [2.0, 2.0, 2.0]])
def test_a_sample_without_spread_is_refused(sample: list[float]) -> None:
    with pytest.raises(ValueError, match="`sample`: at least two different values"):
        gaussian_density(np.array(sample), np.zeros(3))
