"""Kills a scan with SIGKILL at random moments, starts it again each time, and compares the files.

    python scripts/kill_study.py --kills 20 [--stream] [--seed 0]

The scan is that of the embedded model over its corpus. A moment is drawn from the time that an
undisturbed scan takes; one that is killed late may have come to its end, and is then started again
all the same. Prints whether every file of the killed scan equals the undisturbed one's.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Runs the study; exit status 1 if a file differs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    command = [sys.executable, "-c", "from kis_jax.cli import main; main()", "scan"]
    command += ["--num-facts", "32", "--num-documents", str(given.documents)]
    command += ["--stream", "--memory", "1.2GB"] if given.stream else ["--save-every", "0.5"]
    place = Path(tempfile.mkdtemp(prefix="kis-kill-"))
    undisturbed, killed = place / "undisturbed", place / "killed"
    start = time.monotonic()
    subprocess.run([*command, "--out", undisturbed], check=True, capture_output=True)
    duration = time.monotonic() - start
    chance, cut = random.Random(given.seed), 0
    for number in range(given.kills):
        moment = chance.uniform(0, duration)
        with subprocess.Popen(
            [*command, "--out", killed], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                cut += 1
        saved = sorted(path.name for path in (killed / "second_moments").glob("*"))
        print(
            f"kill {number + 1} after {moment:.1f} s: {', '.join(saved) or 'nothing'}", flush=True
        )
    subprocess.run([*command, "--out", killed], check=True, capture_output=True)
    different = sorted(
        name
        for name in _digests(undisturbed).keys() | _digests(killed).keys()
        if _digests(undisturbed).get(name) != _digests(killed).get(name)
    )
    print(f"{cut} of {given.kills} cut short; files that differ: {', '.join(different) or 'none'}")
    sys.exit(bool(different))


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, those of orbax left out, whose numbers `scan.json` follows from."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not ("second_moments" in path.parts and path.suffix != ".f64")
    }


if __name__ == "__main__":
    main()
