#!/usr/bin/env python3
"""Write a GGUF file with random weights and the shape of a real model, for memory, loading and speed at real sizes.

.venv/bin/python scripts/make_real_shape.py llama1b OUT.gguf [--layers N] [--seed S] [--f32]
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
from real_shapes import SHAPES, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="fewer than the real model's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--f32", action="store_true", help="write the same values in float32")
    given = parser.parse_args()
    begin = time.monotonic()
    write(SHAPES[given.shape], given.out, given.layers, given.seed, given.f32)
    print(f"{given.out}: {given.out.stat().st_size / 1e9:.3f} GB, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
