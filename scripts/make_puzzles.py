"""Makes the puzzles that are shipped: `python -m scripts.make_puzzles`."""

from kis_jax import factlm
from kis_jax.factlm.puzzles import puzzle_text, puzzles
from kis_jax.factlm.world import build_world


def main() -> None:
    """Writes a file for each split."""
    for split, records in puzzles(build_world()).items():
        path = factlm.puzzles_path(split)
        path.parent.mkdir(exist_ok=True)
        path.write_text(puzzle_text(records), encoding="utf-8")
        print(f"{path.name}: {len(records)} puzzles, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
