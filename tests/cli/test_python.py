"""Commands called from Python write and give back what the command line does."""

import numpy as np
import pytest

import kis_jax


@pytest.mark.slow
def test_scan_model_is_the_command(tmp_path, kis):
    settings = {"num_facts": 12, "num_documents": 300, "layers": "2"}
    scan = kis_jax.scan_model(out=tmp_path / "called", **settings)
    status, _, error = kis(
        "scan",
        "--out",
        tmp_path / "typed",
        "--num-facts",
        12,
        "--num-documents",
        300,
        "--layers",
        2,
    )
    assert status == 0, error
    for name in ("scan.json", "report.html"):
        typed, called = (tmp_path / way / name for way in ("typed", "called"))
        assert typed.read_bytes() == called.read_bytes()
    with np.load(tmp_path / "typed" / "layer_002.npz") as arrays:
        np.testing.assert_array_equal(scan.matrices(2)["superposition"], arrays["superposition"])
    assert len(scan.facts) == 12
    assert "12 facts at 1 layers" in scan._repr_html_() and scan.page.is_file()


def test_a_setting_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="settings: expected some of num_facts.*found num_fact"):
        kis_jax.scan_model(out=tmp_path / "out", num_fact=3)
