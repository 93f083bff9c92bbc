"""The atlas of a scan in a real browser: what it shows is what the files hold."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.report.browser import Visit, browser


@pytest.fixture(scope="module")
def opened():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def report(two_reports):
    return two_reports[0]


@pytest.fixture(scope="module")
def record(report):
    return json.loads((report / "scan.json").read_text())


@pytest.fixture(scope="module")
def superposition(report):
    return [
        np.load(report / f"layer_{layer:03d}.npz")["superposition"]
        for layer in range(len(list(report.glob("layer_*.npz"))))
    ]


@pytest.fixture
def visit(opened, report):
    visited = Visit(opened, report / "report.html")
    yield visited
    visited.context.close()
    assert not visited.complaints


def shown(value, digits=3):
    return f"{value:,.{digits}f}".replace("-", "−") if np.isfinite(value) else "–"


def point(visit, place, count, action="move"):
    """Points at a cell of the matrix."""
    visit.page.locator("#matrix").scroll_into_view_if_needed()
    box = visit.page.locator("#matrix").bounding_box()
    y, x = (box["width"] * (at + 0.5) / count for at in place)
    getattr(visit.page.mouse, action)(box["x"] + x, box["y"] + y)
    visit.settle()


def test_it_loads_from_disk_and_asks_for_nothing(visit, report):
    assert visit.requests == [(report / "report.html").as_uri()]
    assert visit.page.locator("#atlas").is_visible()
    assert not visit.page.locator("#pictures img").first.is_visible()


def test_everything_follows_the_layer(visit, record, superposition):
    page = visit.page
    page.select_option("#order", "facts")
    page.fill("#search", "Subject 13")
    page.keyboard.press("Enter")
    page.focus("#layer")
    page.keyboard.press("Home")
    lines, pictures = set(), set()
    for layer, p in enumerate(superposition):
        visit.settle()
        assert visit.text("#layer-name") == f"Layer {layer}"
        lines.add(page.locator("#glance-kurtosis .cursor").get_attribute("x1"))
        pictures.add(page.evaluate("document.getElementById('matrix').toDataURL()"))
        page.evaluate("document.getElementById('layer-details').open = true")
        kurtosis = record["layers"][layer]["kurtosis"]
        control = record["layers"][layer]["controls"]["other_tokens"]["kurtosis"]
        row = page.locator("#layer-numbers tr").first.locator("td").all_inner_texts()
        assert row[0] == shown(np.nan if kurtosis is None else kurtosis, 2)
        assert row[-1] == shown(control, 2)
        # The fact's line, at this layer: its neighbors and p, from the file.
        for cells in page.locator("#fact-lines tr").all():
            neighbor = cells.locator("bdi").first.inner_text()
            value = cells.locator("td").first.inner_text()
            subjects = [fact["subject"] for fact in record["facts"]]
            possible = [p[13, j] for j, subject in enumerate(subjects) if subject == neighbor]
            assert value in [shown(each) for each in possible], neighbor
        # The list of the strongest pairs.
        off = np.abs(np.where(np.eye(len(p), dtype=bool), 0, np.nan_to_num(p)))
        larger = np.maximum(off, off.T)[np.triu_indices(len(p), 1)]
        threshold = float(visit.text("#threshold-value"))
        assert visit.text("#pairs-count").startswith(f"{(larger >= threshold).sum()} pair")
        values = [
            text.split(",")[0].lstrip("−") for text in page.locator("#pairs .n").all_inner_texts()
        ]
        assert values == [shown(v) for v in np.sort(larger)[::-1][: len(values)]]
        page.keyboard.press("ArrowRight")
    assert len(lines) == len(pictures) == len(superposition)


def test_hover_names_the_facts_in_every_order(visit, record, superposition):
    count = len(record["facts"])
    data = json.loads(visit.page.evaluate("document.getElementById('data').textContent"))
    layer = int(visit.text("#layer-name").split()[1])
    for order, places in data["orders"].items():
        assert sorted(places) == list(range(count))
        visit.page.select_option("#order", order)
        for row, column in [(0, 3), (7, 15), (23, 2), (12, 22)]:
            point(visit, (row, column), count)
            i, j = places[row], places[column]
            text = visit.text("#pair")
            for fact in (record["facts"][i], record["facts"][j]):
                assert " ".join(fact["subject"].split()).replace("\ud800", "�") in text
            there, back = superposition[layer][i, j], superposition[layer][j, i]
            assert f"p = {shown(there)} there, {shown(back)} back" in text


def test_a_click_pins_and_the_address_can_be_shared(opened, report, visit, record):
    count = len(record["facts"])
    visit.page.select_option("#order", "facts")
    visit.page.evaluate("scrollTo(0, 0)")
    point(visit, (13, 12), count)
    point(visit, (13, 12), count, "click")
    assert visit.text("#pinned-pair").startswith("Subject 13 → Subject 12: p = ")
    assert "Subject 13" in visit.text("#fact-name")
    visit.page.wait_for_timeout(400)
    fragment = visit.page.evaluate("location.hash")
    assert "edit=13&touched=12" in fragment and "order=facts" in fragment
    again = Visit(opened, report / "report.html", fragment=fragment)
    assert again.text("#pinned-pair") == visit.text("#pinned-pair")
    again.context.close()
    visit.page.click("#unpin")
    visit.settle()
    assert not visit.page.locator("#pinned").is_visible()


def test_the_threshold_dims_and_zoom_enlarges(visit, superposition):
    page = visit.page
    page.select_option("#order", "facts")
    page.fill("#threshold", "0")
    page.click("#unpin")
    visit.settle()
    p = superposition[int(visit.text("#layer-name").split()[1])]
    weak = np.argwhere((np.abs(p) > 0.1) & (np.abs(p) < 0.5))[0]
    pixel = """([row, column, count]) => {
      const canvas = document.getElementById("matrix");
      const at = (place) => Math.floor(canvas.width * (place + 0.5) / count);
      const one = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
      one.drawImage(canvas, -at(column), -at(row));
      return [...one.getImageData(0, 0, 1, 1).data];
    }"""
    bright = page.evaluate(pixel, [*map(int, weak), len(p)])
    page.fill("#threshold", "0.9")
    visit.settle()
    dim = page.evaluate(pixel, [*map(int, weak), len(p)])
    assert min(dim[:3]) > min(bright[:3]) + 5, "nearer to white"
    before = page.evaluate("document.getElementById('matrix').toDataURL()")
    page.click("#zoom-in")
    visit.settle()
    assert page.evaluate("document.getElementById('matrix').toDataURL()") != before
    page.click("#zoom-whole")
    visit.settle()
    assert page.evaluate("document.getElementById('matrix').toDataURL()") == before


def test_search_finds_by_subject_and_number(visit):
    visit.page.keyboard.press("/")
    visit.page.keyboard.type("subject 1")
    assert visit.page.locator("#found button").count() == 8
    visit.page.fill("#search", "no such thing")
    assert visit.text("#found") == "No subject has these letters."
    visit.page.fill("#search", "21")
    visit.page.locator("#found button").first.click()
    visit.settle()
    assert visit.text("#fact-name").startswith("21 The mother tongue of Subject 21 is")


def test_text_of_models_and_files_is_never_markup(visit, record):
    visit.page.fill("#search", "script")
    visit.page.keyboard.press("Enter")
    visit.page.fill("#threshold", "0")
    visit.settle()
    assert record["facts"][0]["subject"] in visit.text("#fact-name")
    assert visit.text("#fact-token").endswith("</code>"), "a token that would end its element"
    assert visit.page.locator("#atlas script, #atlas img, body > img").count() == 0
    assert visit.page.locator("bdi script, bdi b, bdi img").count() == 0


def test_the_keyboard_alone_reaches_everything(visit, record):
    page = visit.page
    asked = """() => [...document.querySelectorAll(
        "a[href], button, input, select, canvas, summary, [tabindex='0']")]
      .filter((node) => node.checkVisibility()).map((node) => node.dataset.place =
        node.dataset.place ?? String(Math.random()))"""
    wanted = set(page.evaluate(asked))
    met = set()
    for _ in range(3 * len(wanted)):
        page.keyboard.press("Tab")
        place = page.evaluate("document.activeElement.dataset.place ?? null")
        if place in met:
            break
        met.add(place)
    assert wanted <= met
    page.focus("#matrix")
    page.keyboard.press("Escape")
    for key in ["ArrowDown", "ArrowDown", "Shift+ArrowRight", "Enter"]:
        page.keyboard.press(key)
    visit.settle()
    order = json.loads(page.evaluate("document.getElementById('data').textContent"))["orders"]
    i, j = order["cluster"][2], order["cluster"][10]
    assert record["facts"][i]["subject"][:20] in visit.text("#pinned-pair")
    assert record["facts"][j]["subject"][:20] in visit.text("#pinned-pair")
    page.keyboard.press("]")
    visit.settle()


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_overflows(opened, report, width):
    visit = Visit(opened, report / "report.html", viewport={"width": width, "height": 800})
    visit.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    visit.page.fill("#threshold", "0.1")
    visit.settle()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.overflow() == []
    visit.context.close()


def test_dark_and_light(opened, report):
    corners = []
    for scheme in ("light", "dark"):
        visit = Visit(opened, report / "report.html", color_scheme=scheme)
        paper, ink = (
            visit.page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        )
        light = [sum(map(int, re.findall(r"\d+", colour))) for colour in (paper, ink)]
        assert (light[0] > light[1]) == (scheme == "light")
        corners.append(visit.page.evaluate("document.getElementById('matrix').toDataURL()"))
        visit.context.close()
    assert corners[0] != corners[1]


def test_with_scripts_off_the_pictures_are_there(opened, report):
    visit = Visit(opened, report / "report.html", java_script_enabled=False)
    assert not visit.page.locator("#atlas").is_visible()
    images = visit.page.locator("img").all()
    assert len(images) == 13 and all(image.is_visible() for image in images)
    assert not visit.page.locator("a", has_text="Matrix").first.is_visible()
    visit.context.close()


def test_of_too_many_facts_those_that_collide_most_are_shown(report):
    from kis_jax.report.scan_files import read_scan
    from kis_jax.scan.atlas import content

    found = content(read_scan(Path(report)), most_entries=3 * 25)
    assert [row[0] for row in found["facts"]][-1] <= 23 and len(found["facts"]) == 5
    assert {0, 10} <= {row[0] for row in found["facts"]}, "equal keys, p = 1"
