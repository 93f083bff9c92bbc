import dataclasses
import json

import numpy as np
import pytest
import scipy.stats

from kis_jax.compare.comparison import compare_scans
from kis_jax.compare.pairs import overlap_probability
from kis_jax.compare.scans import ComparedScan
from tests import compared_scans

WIDTHS = (100, 400, 1600)


def opened(directory):
    record = json.loads((directory / "scan.json").read_text())

    def matrix(layer):
        with np.load(directory / f"layer_{layer:03d}.npz") as arrays:
            return arrays["superposition"]

    return ComparedScan(directory.name, str(directory), record, matrix)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    return [opened(compared_scans.write_scan(root / f"m{width}", width)) for width in WIDTHS]


@pytest.fixture(scope="module")
def record(scans):
    return compare_scans(scans)


def law(record, measure, against="key_dimension"):
    (found,) = (x for x in record["laws"] if (x["measure"], x["against"]) == (measure, against))
    return found


def test_laws_are_those_of_scipy(scans, record):
    means = [np.mean([x["kurtosis"] for x in scan.record["layers"]]) for scan in scans]
    for against, x in (
        ("key_dimension", np.array(WIDTHS)),
        ("num_parameters", 12 * np.square(WIDTHS)),
    ):
        line = scipy.stats.linregress(np.log(x), np.log(means))
        half = line.stderr * scipy.stats.t.ppf(0.975, 1)
        found = law(record, "kurtosis", against)
        np.testing.assert_allclose(
            [found["exponent"], found["low"], found["high"], found["explained"]],
            [line.slope, line.slope - half, line.slope + half, line.rvalue**2],
            rtol=1e-7,
        )


def test_the_width_alone_explains_a_law_that_it_alone_made(record):
    """The related pairs are the same in each of these models; kurtosis grows all the same."""
    measured, alone = law(record, "kurtosis"), law(record, "kurtosis_width_alone")
    assert measured["exponent"] > 0.1
    np.testing.assert_allclose(alone["exponent"], measured["exponent"], rtol=0.25)
    bulk = law(record, "bulk_std_times_sqrt_rank")
    assert abs(bulk["exponent"]) < 0.05 < measured["exponent"]


def test_two_models_have_no_interval_and_one_no_law(scans):
    two = law(compare_scans(scans[:2]), "kurtosis")
    assert two["exponent"] is not None and two["low"] is None
    one = law(compare_scans(scans[:1]), "kurtosis")
    assert one["exponent"] is None and one["models"] == [0]


def test_what_is_not_positive_is_left_out(scans):
    poor = json.loads(json.dumps(scans[0].record))
    for layer in poor["layers"]:
        layer["kurtosis"] = -0.5
    found = law(
        compare_scans([ComparedScan("a", "a", poor, scans[0].superposition), *scans[1:]]),
        "kurtosis",
    )
    assert found["models"] == [1, 2] and found["left_out"] == [0] and found["low"] is None


def test_shared_pairs_are_the_related_ones_and_no_subject_with_itself(record):
    shared = record["pairs"]["shared"]
    found = [tuple(fact["index"] for fact in row["facts"]) for row in shared]
    assert set(found[:3]) == set(compared_scans.RELATED) and (3, 4) not in found
    assert shared[0]["models"] == [0, 1, 2]
    np.testing.assert_allclose(shared[0]["superposition"], 0.9)
    assert record["pairs"]["candidates"] == 20 * 19 // 2 - 1
    assert len(record["pairs"]["overlaps"]) == 3


@pytest.mark.parametrize("case", [(3, 30, 30, 189), (0, 5, 7, 40), (5, 5, 7, 40), (4, 5, 5, 6)])
def test_chance_is_hypergeometric(case):
    shared, one, two, candidates = case
    expected = scipy.stats.hypergeom.sf(shared - 1, candidates, one, two)
    np.testing.assert_allclose(overlap_probability(*case), expected, rtol=1e-9)


def changed(scan, change):
    record = json.loads(json.dumps(scan.record))
    change(record)
    return ComparedScan(scan.label, "elsewhere", record, scan.superposition)


def test_settings_that_differ_are_told(scans):
    other = changed(scans[1], lambda record: record["settings"].update(ridge=0.1))
    assert compare_scans([scans[0], other])["differences"] == ["ridge"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["facts"].pop(), "found 20 in .* and 19 in elsewhere; .* --num-facts 19"),
        (lambda r: r["facts"][7].update(subject="X"), "fact 7 .* 'Subject 7' .* and 'X' in else"),
        (lambda r: r["settings"].update(position="last"), "--position subject_last in .* and last"),
        (lambda r: r["layers"][0].pop("controls"), "elsewhere: .*found one of an earlier kis_jax"),
    ],
)
def test_scans_that_are_of_something_else_are_refused(scans, change, message):
    with pytest.raises(ValueError, match=message):
        compare_scans([scans[0], changed(scans[1], change)])


def test_arguments_are_checked(scans):
    with pytest.raises(ValueError, match="depth: expected a number from 0 to 1, found 1.5"):
        compare_scans(scans, depth=1.5)
    with pytest.raises(ValueError, match="twice"):
        compare_scans([scans[0], scans[0]])
    with pytest.raises(ValueError, match="one finished scan at least"):
        compare_scans([])


def test_several_scans_of_one_model_are_one_point_of_a_law(tmp_path):
    scans = [
        opened(compared_scans.write_scan(tmp_path / name, width))
        for name, width in (("a", 100), ("again", 100), ("b", 400))
    ]
    for scan, model in zip(scans, "aab", strict=True):
        scan.record["fingerprints"]["model"] = model
    found = law(compare_scans(scans), "kurtosis")
    assert found["models"] == [0, 2] and found["low"] is None and found["left_out"] == []


def test_one_folder_under_two_names_is_refused(tmp_path):
    scan = opened(compared_scans.write_scan(tmp_path / "a", 100))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    other = dataclasses.replace(scan, run=str(tmp_path / "link"))
    with pytest.raises(ValueError, match="expected different scans, found .*a twice"):
        compare_scans([scan, other])


@pytest.mark.parametrize(
    "damage",
    [
        {"architecture": []},
        {"architecture": {}},
        {"architecture": {"num_layers": 3, "key_dimension": float("inf")}},
        {"architecture": {"num_layers": 3, "key_dimension": 0}},
        {"settings": []},
        {"token_count": "x"},
    ],
    ids=str,
)
def test_a_damaged_record_is_named(scans, damage):
    other = dataclasses.replace(scans[1], record={**scans[1].record, **damage})
    with pytest.raises(ValueError, match="m400: expected a scan.json with"):
        compare_scans([scans[0], other])
