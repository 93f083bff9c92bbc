"""Commands as functions: what `kis` does, called from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from kis_jax.factlm import NAME
from kis_jax.report.scan_files import Scan, read_scan
from kis_jax.scan.command import ScanSettings, measure, request_of


def scan_model(
    model: str = NAME,
    *,
    facts: str | None = None,
    corpus: str | None = None,
    out: str | Path = "kis-scan",
    **settings: Unpack[ScanSettings],
) -> Scan:
    """`kis scan` from Python: measures, writes the same files, and gives them back.

    On one device, with the model in memory; what was interrupted is taken up again. In a notebook
    the result shows itself.

    Args:
      model: a local directory in HuggingFace layout, or a hub name; the embedded one by default.
      facts: a file or a known name; those of the world, or of the embedded model, if None.
      corpus: files or a hub name; text that the model writes itself if None.
      out: folder for the results: new, or that of this very scan.
      **settings: as the options of the command: `num_facts`, `num_documents`, `document_length`,
        `layers`, `position`, `ridge`, `inverse`, `shrinkage`, `dtype`, `until`, `reliability` and
        `strict`.

    Returns:
      The finished scan: `layers`, `facts`, `matrices(layer)`, and the atlas at `page`.

    Raises:
      ValueError: as the command does: it names what was expected, what was found and the remedy.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as out:
      ...     scan = scan_model(out=out, num_facts=8, num_documents=100, layers="3")
      ...     scan.matrices(3)["superposition"].shape, scan.page.name
      ((8, 8), 'report.html')
    """
    from kis_jax.passes.inputs import open_inputs

    if unknown := set(settings) - ScanSettings.__annotations__.keys():
        known = ", ".join(ScanSettings.__annotations__)
        raise ValueError(f"settings: expected some of {known}, found {min(unknown)}")
    request = request_of(model, facts, corpus, **settings)
    measure(open_inputs(request, controls=True, mixtures=True), Path(out))
    return read_scan(Path(out))
