"""Kills a scan with SIGKILL at random moments, starts it again each time, and compares the files.

    python scripts/kill_study.py --kills 20 [--stream] [--seed 0]

The scan is that of the embedded model over its corpus. A moment is drawn from the time that an
undisturbed scan takes. A scan that comes to its end before its moment is no kill: its files are
compared, and another is begun in a new folder. Prints whether every file of the killed scans equals
the undisturbed one's.
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
from collections.abc import Sequence
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
    undisturbed = place / "undisturbed"
    start = time.monotonic()
    subprocess.run([*command, "--out", undisturbed], check=True, capture_output=True)
    duration = time.monotonic() - start
    expected, chance = _digests(undisturbed), random.Random(given.seed)
    kills, ended, different = 0, 0, set()
    while kills < given.kills:
        out, moment = place / f"killed_{ended}", chance.uniform(0, duration)
        if _kill_after(moment, [*command, "--out", out]):
            kills += 1
            saved = sorted(path.name for path in (out / "second_moments").glob("*"))
            about = ", ".join(saved) or "nothing"
            print(f"kill {kills} after {moment:.1f} s, saved: {about}", flush=True)
        else:
            different |= _different(expected, _digests(out))
            ended += 1
    out = place / f"killed_{ended}"
    subprocess.run([*command, "--out", out], check=True, capture_output=True)
    different |= _different(expected, _digests(out))
    print(f"{kills} kills in {ended + 1} scans; files that differ: {sorted(different) or 'none'}")
    sys.exit(bool(different))


def _kill_after(moment: float, command: Sequence[str | Path]) -> bool:
    """Runs a command for so many seconds; whether it had to be killed."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    if process.returncode:
        sys.exit(f"a scan ended with status {process.returncode}: {' '.join(map(str, command))}")
    return False


def _different(expected: dict[str, str], found: dict[str, str]) -> set[str]:
    """Names of files that are not the same in both."""
    return {name for name in expected | found if expected.get(name) != found.get(name)}


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, those of the store left out, whose numbers `scan.json` follows from."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not ("second_moments" in path.parts and path.suffix != ".f64")
    }


if __name__ == "__main__":
    main()
