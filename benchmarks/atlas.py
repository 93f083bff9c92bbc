"""Size, load time and frame time of the atlas of a scan, in a real browser.

    python -m benchmarks.atlas [DIR]

Of a finished scan in DIR, or else of two made here: 30 layers of 128 and of 512 facts, in groups
that collide. A frame is all that follows a change (script, layout and paint), measured in the
browser from the start of the frame to its end, which others at work on the machine lengthen; the
processor time of the page's thread for it, which they do not, is held against the 50 ms that are
felt as immediate.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import report
from kis_jax.scan.layers import scan_layer
from kis_jax.scan.page import write_report
from tests.report.browser import NAMES, Visit, browser

LAYERS, WIDTH = 30, 64
BUDGET, FRAMES = 50.0, 60  # milliseconds; of each action
ACTIONS = {
    "layer": "(step) => { const node = document.getElementById('layer');"
    " node.value = step % (1 + Number(node.max)); node.dispatchEvent(new Event('input')); }",
    "threshold": "(step) => { const node = document.getElementById('threshold');"
    " node.value = (step % 50) / 50; node.dispatchEvent(new Event('input')); }",
    "order": "(step) => { const node = document.getElementById('order');"
    " node.selectedIndex = step % 3; node.dispatchEvent(new Event('change')); }",
    "hover": "(step) => { const node = document.getElementById('matrix');"
    " const box = node.getBoundingClientRect(); node.dispatchEvent(new PointerEvent('pointermove',"
    " { clientX: box.left + box.width * ((step * 0.37) % 1),"
    " clientY: box.top + box.height * ((step * 0.61) % 1), pointerType: 'mouse' })); }",
}
TIMED = """async ([action, steps]) => {
  const act = eval(action), found = [];
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  for (let step = 0; step < steps; step++) {
    let start = 0;
    requestAnimationFrame(() => { start = performance.now(); });
    act(step);
    await new Promise((done) => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = done;
      channel.port2.postMessage(null);
    }));
    found.push(performance.now() - start);
    await frame();
  }
  return found;
}"""


def write_scan(directory: Path, count: int) -> Path:
    """A scan of keys in groups of eight; its convergence is that of its first layer."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 8, WIDTH))
    first = scan_layer(
        np.repeat(centres, 8, axis=0) + rng.normal(size=(count, WIDTH)),
        np.eye(WIDTH),
        ridge=0.0,
        duplicate_of=[None] * count,
        others=rng.normal(size=(count, WIDTH)),
    )
    rows = {k: v for k, v in first.arrays.items() if v.ndim == 1}
    layers = []
    for layer in range(LAYERS):
        near = rng.uniform(0, 1)
        keys = near * np.repeat(centres, 8, axis=0) + rng.normal(size=(count, WIDTH))
        gram = keys @ keys.T
        norms = np.sqrt(np.diag(gram))
        cosine = gram / np.outer(norms, norms)
        np.savez(
            directory / f"layer_{layer:03d}.npz",
            allow_pickle=False,
            superposition=gram / (norms**2)[:, None],
            whitening_cosine=cosine,
            activation_cosine=cosine,
            **rows,
        )
        layers.append({"layer": layer, **first.statistics})
    facts = [
        {
            "case_id": place,
            "subject": f"Subject {place}",
            "prompt": "The mother tongue of {} is",
            "target": f"Target {place % 7}",
            "relation": f"P{place % 20}",
            "token": " x",
            "token_index": 1,
            "duplicate_of": None,
        }
        for place in range(count)
    ]
    record: dict[str, Any] = {
        "format": 1,
        "version": "0",
        "model": f"{count} facts, made up",
        "family": "none",
        "architecture": {},
        "fingerprints": {},
        "settings": {},
        "token_count": 0,
        "document_count": 0,
        "facts": facts,
        "layers": layers,
    }
    (directory / "scan.json").write_text(json.dumps(record))
    return write_report(directory)


def measure(opened: Any, page: Path) -> list[dict[str, Any]]:
    """Rows of the table for one page."""
    visit = Visit(opened, page)
    visit.page.wait_for_load_state("load")
    session = visit.context.new_cdp_session(visit.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        """Processor time of the page's own thread so far, in milliseconds."""
        found = session.send("Performance.getMetrics")["metrics"]
        return 1e3 * next(each["value"] for each in found if each["name"] == "TaskDuration")

    name = visit.page.title().removeprefix("Knowledge superposition in ")
    common = {"page": name, "MB": round(page.stat().st_size / 1e6, 2)}
    loaded = visit.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    rows = [{**common, "what": "load", "ms": loaded, "worst ms": loaded, "processor ms": "-"}]
    for action, script in ACTIONS.items():
        before = busy()
        found = sorted(visit.page.evaluate(TIMED, [script, FRAMES]))
        spent = (busy() - before) / FRAMES
        middle, worst = found[len(found) // 2], found[-1]
        rows.append(
            {**common, "what": action, "ms": middle, "worst ms": worst, "processor ms": spent}
        )
    for each in rows[1:]:
        each["share of 50 ms"] = each["processor ms"] / BUDGET
    visit.context.close()
    return [{**each, "share of 50 ms": each.get("share of 50 ms", "-")} for each in rows]


def main() -> None:
    """Prints the table, and saves it beside the others."""
    if not any(map(shutil.which, NAMES)):
        print(f"atlas: needs a browser, one of {', '.join(NAMES)}; none found")
        return
    given = [Path(name) for name in sys.argv[1:] if Path(name).is_dir()]
    rows = []
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        pages = [directory.resolve() / "report.html" for directory in given]
        for count in () if given else (128, 512):
            (Path(folder) / str(count)).mkdir()
            pages.append(write_scan(Path(folder) / str(count), count))
        for page in pages:
            rows += measure(opened, page)
    report("atlas", "the atlas of a scan: load, and one frame of each action", rows)


if __name__ == "__main__":
    main()
