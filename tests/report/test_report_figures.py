from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from kis_jax.report import style
from kis_jax.report.scan_files import Convergence
from kis_jax.scan import kurtosis_figures, layer_figures

RNG = np.random.default_rng(0)
MATRIX = np.clip(np.eye(12) + 0.05 * RNG.normal(size=(12, 12)), -1, 1)
SYMMETRIC = (MATRIX + MATRIX.T) / 2
CURVE = Convergence(
    num_facts=np.array([8.0, 16.0]),
    kurtosis=np.array([1.0, 2.0]),
    low=np.array([0.5, np.nan]),
    high=np.array([2.0, 3.0]),
    bootstrap_low=np.array([0.2, np.nan]),
    bootstrap_high=np.array([2.5, np.nan]),
)
NO_CURVE = Convergence(*[np.zeros(0)] * 6)
SAME = np.eye(12, k=1, dtype=bool)

DRAWN: dict[str, Callable[[], Figure]] = {
    "kurtosis": lambda: kurtosis_figures.kurtosis_by_layer([0, 1], [3.0, 2.0], [2.0, 1.0]),
    "controls": lambda: kurtosis_figures.kurtosis_by_layer(
        [0, 1], [3.0, 2.0], others=[1.0, float("nan")], random=[0.1, 0.2]
    ),
    "second moments": lambda: kurtosis_figures.second_moment_convergence(
        [100, 400], np.array([[0.1, np.nan], [0.05, 0.04]]), [0, 5]
    ),
    "second moments, nothing known": lambda: kurtosis_figures.second_moment_convergence(
        [100], np.array([[np.nan]]), [0]
    ),
    "one layer": lambda: kurtosis_figures.kurtosis_by_layer([7], [float("nan")]),
    "convergence": lambda: kurtosis_figures.kurtosis_convergence({0: CURVE, 5: NO_CURVE, 6: CURVE}),
    "many layers": lambda: kurtosis_figures.kurtosis_convergence(dict.fromkeys(range(32), CURVE)),
    "map": lambda: layer_figures.superposition_map(3 * MATRIX),
    "density": lambda: layer_figures.superposition_density(MATRIX, SAME),
    "far entries": lambda: layer_figures.superposition_density(MATRIX * 40),
    "angles": lambda: layer_figures.angle_distributions(SYMMETRIC, SYMMETRIC, SAME),
    "one fact, density": lambda: layer_figures.superposition_density(np.eye(1)),
    "one fact, angles": lambda: layer_figures.angle_distributions(np.eye(1), np.eye(1)),
    "one fact, map": lambda: layer_figures.superposition_map(np.eye(1)),
    "no spread": lambda: layer_figures.superposition_density(np.eye(4)),
    "nothing finite": lambda: layer_figures.superposition_density(np.full((4, 4), np.nan)),
    "nothing finite, map": lambda: layer_figures.superposition_map(np.full((4, 4), np.nan)),
    "nothing finite, angles": lambda: layer_figures.angle_distributions(
        np.full((4, 4), np.nan), np.full((4, 4), np.nan)
    ),
}


@pytest.mark.usefixtures("settings_stay")
@pytest.mark.parametrize("name", DRAWN)
def test_it_draws_and_leaves_the_settings_alone(name: str) -> None:
    figure = DRAWN[name]()
    png, svg = style.png(figure), style.svg(figure)
    assert png.startswith(b"\x89PNG") and len(png) > 1000
    assert b"</svg>" in svg


def test_settings_of_the_process_do_not_show() -> None:
    expected = style.png(DRAWN["density"]())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert style.png(DRAWN["density"]()) == expected


def test_many_layers_share_eight_panels() -> None:
    figure = DRAWN["many layers"]()
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 8
    assert titles[0] == "layer 0" and titles[-1] == "layer 31"


def test_entries_out_of_sight_are_counted() -> None:
    entries = (MATRIX * 40)[~np.eye(12, dtype=bool)]
    unseen = int((np.abs(entries) > 3).sum())
    assert unseen > 0
    tail = DRAWN["far entries"]().axes[1]
    assert tail.get_title(loc="left") == f"tail (log scale; {unseen} beyond)"


def test_the_colours_run_from_minus_one_to_one() -> None:
    image = DRAWN["map"]().axes[0].get_images()[0]
    assert image.get_clim() == (-1, 1)
    np.testing.assert_array_equal(image.get_array(), 3 * MATRIX)
