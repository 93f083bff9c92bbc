"""What a notebook shows of a finished run: all text escaped, nothing run, nothing loaded."""

import pytest

from kis_jax.lifelong.files import read_lifelong
from kis_jax.plan.files import read_plan
from kis_jax.report.scan_files import read_scan
from tests.report import lifelong_record, plan_record
from tests.report.test_report_page import Page


@pytest.fixture
def results(tmp_path, two_reports):
    return {
        "scan": read_scan(str(two_reports[0])),
        "plan": read_plan(plan_record.write(tmp_path / "plan")),
        "lifelong": read_lifelong(lifelong_record.write(tmp_path / "lifelong")),
    }


@pytest.mark.parametrize("name", ["scan", "plan", "lifelong"])
def test_a_result_shows_itself(results, name):
    page = Page(results[name]._repr_html_())
    assert not page.open and not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    (image,) = page.attributes("img")
    assert image["src"].startswith("data:image/png;base64,") and len(image["alt"]) > 30
    assert "org/<img src=x>" in page.text


def test_what_was_found_is_said(results):
    scan, plan, lifelong = (Page(found._repr_html_()).text for found in results.values())
    assert "24 facts at 3 layers" in scan and str(results["scan"].page) in scan
    pair = next(p for p in results["scan"].layers[0].pairs if not p.same_subject)
    assert f"{pair.edit.subject} {pair.touched.subject}".split()[0] in scan
    assert "Recommended: layer 1, sequential" in plan and "<script>alert(1)</script>" in plan
    assert "500 facts, 3 methods" in lifelong and "sequential" in lifelong and "100" in lifelong
