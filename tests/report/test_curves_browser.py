"""Pages of a plan, a lifelong run and a comparison in a real browser."""

import json
import shutil
from pathlib import Path

import pytest

from kis_jax.compare.page import write_compare_report
from kis_jax.lifelong.page import write_lifelong_report
from kis_jax.plan.page import write_plan_report
from tests.report import lifelong_record
from tests.report.browser import Visit, browser
from tests.report.plan_record import write as write_plan

FAMILY = Path(__file__).parents[2] / "docs" / "family" / "sizes" / "compare.json"
PAGES = ("plan", "lifelong", "compare")


@pytest.fixture(scope="module")
def opened():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("curves")
    (root / "compare").mkdir()
    shutil.copyfile(FAMILY, root / "compare" / "compare.json")
    return {
        "plan": write_plan_report(write_plan(root / "plan")),
        "lifelong": write_lifelong_report(lifelong_record.write(root / "lifelong")),
        "compare": write_compare_report(root / "compare"),
    }


def shown(value, digits):
    return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")


def cells(visit):
    rows = visit.page.locator("#place-numbers tr").all()
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows}


@pytest.mark.parametrize("name", PAGES)
def test_the_slider_chooses_and_the_numbers_follow(opened, pages, name):
    visit = Visit(opened, pages[name])
    data = json.loads(visit.page.evaluate("document.getElementById('data').textContent"))
    visit.page.focus("#place")
    visit.page.keyboard.press("Home")
    seen = set()
    for place, label in enumerate(data["axis"]["names"]):
        visit.settle()
        assert visit.text("#place-name") == label
        found = cells(visit)
        for line in data["lines"]:
            wanted = [
                shown(each["values"][place], panel["digits"])
                for panel in data["panels"]
                for each in panel["lines"]
                if each["name"] == line["name"]
            ]
            assert found[line["name"]] == wanted
        seen.add(visit.page.locator("#curve-panels .cursor").first.get_attribute("x1"))
        visit.page.keyboard.press("]")
    assert len(seen) == len(data["axis"]["names"])
    assert visit.requests == [pages[name].as_uri()] and not visit.complaints
    visit.context.close()


def test_facts_lost_are_told_in_words(opened, pages):
    record = lifelong_record.record()
    visit = Visit(opened, pages["lifelong"], fragment="#at=10")
    assert visit.text("#place-name") == "10 edits"
    says = visit.text("#place-says")
    (course,) = (each for each in record["methods"] if each["method"] == "sequential")
    assert course["checkpoints"][1]["lost"] == [0, 3, 6, 9]
    assert "sequential: 4 of 10 facts looked at are lost: Subject 0 is x; Subject 3 is x" in says
    assert "constrained: none of 10 facts looked at is lost." in says
    assert "collapse" not in says
    visit.page.keyboard.press("]")
    visit.settle()
    assert "sequential: collapse set in at 100 edits." in visit.text("#place-says")
    visit.context.close()


def test_what_collides_at_a_layer_is_told_in_words(opened, pages):
    visit = Visit(opened, pages["plan"])
    assert visit.text("#place-name") == "Layer 1"
    says = visit.text("#place-says")
    assert "This layer is recommended, with sequential." in says
    assert "Edit in this order: <script>alert(1)</script> is in Rome; Subject 2 is in Rome" in says
    assert "p = 0.91, back −0.20 (near-duplicates): <script>alert(1)</script> is in Rome" in says
    assert visit.page.locator("#inner-panels svg").count() == 3
    assert visit.page.locator("#atlas script").count() == 0 and not visit.complaints
    visit.context.close()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows(opened, pages, name, width):
    visit = Visit(opened, pages[name], viewport={"width": width, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.overflow() == []
    visit.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_with_scripts_off_the_pictures_are_there(opened, pages, name):
    visit = Visit(opened, pages[name], java_script_enabled=False)
    assert not visit.page.locator("#atlas").is_visible()
    assert all(image.is_visible() for image in visit.page.locator("main img").all())
    visit.context.close()
