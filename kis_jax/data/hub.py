"""Data sets from the HuggingFace hub, by the `datasets` library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

KNOWN_FACTS = {"counterfact": "azhx/counterfact"}


def stream_hub(name: str) -> Iterator[dict[str, Any]]:
    """Streams the records of the train split of a data set on the hub.

    Args:
      name: `owner/name`, or `owner/name:configuration`.

    Raises:
      ValueError: if `datasets` is not installed, or the hub gives no such data set.
    """
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"{name}: a data set of the hub needs the `datasets` package; "
            "pip install 'kis_jax[data]', or pass a local file"
        ) from None
    path, _, configuration = name.partition(":")
    try:
        records = datasets.load_dataset(path, configuration or None, split="train", streaming=True)
        yield from records
    except Exception as error:  # the hub's, pyarrow's and the network's, by many classes
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"{name}: no such local file, and the hub gave no such data set "
            f"({type(error).__name__}: {reason}); check the name, or pass a local file"
        ) from error
