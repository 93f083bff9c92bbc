"""What docs/family holds: its JSON draws its figures, to the byte."""

import json
import shutil
from pathlib import Path

import matplotlib
import pytest

from kis_jax.compare.page import write_compare_report
from kis_jax.lifelong.lifetime_figures import write_lifetime_figures

FAMILY = Path(__file__).parents[2] / "docs" / "family"
DRAWN_WITH = (FAMILY / "drawn_with.txt").read_text().split()[-1]
RECORDS = sorted(path.relative_to(FAMILY) for path in FAMILY.rglob("*.json"))
DRAW = {"compare.json": write_compare_report, "lifetimes.json": write_lifetime_figures}


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("family")
    for record in RECORDS:
        if record.name in DRAW:
            (out / record.parent).mkdir(exist_ok=True)
            shutil.copyfile(FAMILY / record, out / record)
            DRAW[record.name](out / record.parent)
    return out


@pytest.mark.skipif(
    matplotlib.__version__ != DRAWN_WITH, reason="another matplotlib draws other pixels"
)
def test_the_committed_json_draws_the_committed_figures(redrawn):
    committed = sorted(path.relative_to(FAMILY) for path in FAMILY.rglob("*.png"))
    assert len(committed) >= 7
    assert committed == sorted(path.relative_to(redrawn) for path in redrawn.rglob("*.png"))
    for picture in committed:
        assert (redrawn / picture).read_bytes() == (FAMILY / picture).read_bytes(), picture


def test_five_sizes_or_more_are_compared():
    comparison = json.loads((FAMILY / "sizes" / "compare.json").read_text())
    assert len({model["width"] for model in comparison["models"]}) >= 5
    assert comparison["num_facts"] == 128


def test_it_is_small():
    assert sum(path.stat().st_size for path in FAMILY.rglob("*") if path.is_file()) < 1_000_000
