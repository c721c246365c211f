#!/usr/bin/env python3
"""Compiles shaders/variants.toml to SPIR-V files and variants.json with glslangValidator. Used by the build and, for
single edited variants, at run time.

A table of variants.toml:
    [[shader]]
    name = "matmul_{FORMAT}_r{ROWS}"        one variant for each combination of the lists in `defines`
    source = "matmul.comp"
    target = "vulkan1.1"                     Vulkan version that the SPIR-V requires (default vulkan1.1)
    requires = ["subgroup_ballot"]           device features, with {NAMES} as in name; none for a base variant
    texel = { 1 = "rgba32ui" }               bindings that are uniform texel buffers, and their formats
    defines = { FORMAT = ["Q4_1", "Q8_0"], SUBGROUP = 1, "ROWS TOKENS" = [[1, 1], [4, 2]] }
                                             a key of several names takes tuples of their values
    and [lists]: "@NAME" stands for the values of a list, as an element of a list or in place of one.
"""

import argparse
import array
import functools
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OP_TYPE_FLOAT = 22
OP_TYPE_COOPERATIVE_MATRIX = 4456

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
INCLUDE = re.compile(r'^[ \t]*#include "([^"]+)"', re.MULTILINE)
CONSTANT = re.compile(r"layout\s*\(\s*constant_id\s*=\s*(\w+)\s*\)\s*const\s+(\w+)\s+(\w+)")
PUSH_BLOCK = re.compile(r"layout\s*\([^)]*\bpush_constant\b[^)]*\)\s*uniform\s+\w+\s*\{([^}]*)\}")
MEMBER = re.compile(r"(\w+)\s+(\w+(?:\s*,\s*\w+)*)")
WORD_TYPES = ("uint", "int", "float")  # of push constants; specialization constants may also be bool


def expand(path: Path) -> list[dict]:
    """One dict per variant: name, source, target, requires, texel, defines (single values), constants, push."""
    document = tomllib.loads(path.read_text())
    named = document.get("lists", {})
    variants = []
    for row in document["shader"]:
        defines = row.get("defines", {})
        names = list(defines)
        source = row.get("source", row["name"] + ".comp")
        constants, push = source_constants(path.parent / source)
        lists = [with_lists(value if isinstance(value, list) else [value], named) for value in defines.values()]
        requires = with_lists(row.get("requires", []), named)
        for values in itertools.product(*lists):
            chosen = {}
            for name, value in zip(names, values):
                chosen.update(zip(name.split(), value) if " " in name else [(name, value)])
            variants.append(
                {
                    "name": row["name"].format(**{name: str(value).lower() for name, value in chosen.items()}),
                    "source": source,
                    "target": row.get("target", "vulkan1.1"),
                    "requires": [feature.format(**chosen) for feature in requires],
                    "texel": row.get("texel", {}),
                    "defines": chosen,
                    "constants": constants | format_constants(path.parent, chosen),
                    "push": push,
                }
            )
    return variants


def with_lists(values: list, named: dict[str, list]) -> list:
    """`values`, with "@NAME" replaced by the values of the list NAME. Raises KeyError for an unknown list."""
    found = []
    for value in values:
        found += with_lists(named[value[1:]], named) if isinstance(value, str) and value.startswith("@") else [value]
    return found


def constants_of(glsl: str) -> tuple[dict[str, tuple[int, str]], dict[str, str]]:
    """({specialization constant: (constant_id, type)}, {push constant: type} in the block's order) of a shader with its
    includes expanded. Raises ValueError if one is not a scalar of 32 bits.
    """
    text = COMMENT.sub("", glsl)
    constants = {}
    for number, kind, name in CONSTANT.findall(text):
        if not number.isdigit() or kind not in (*WORD_TYPES, "bool"):
            raise ValueError(
                f"specialization constant {name} must be a bool, int, uint or float with a number as its constant_id"
            )
        constants[name] = int(number), kind
    push = {}
    for block in PUSH_BLOCK.findall(text):
        for member in filter(None, (each.strip() for each in block.split(";"))):
            found = MEMBER.fullmatch(member)
            if not found or found[1] not in WORD_TYPES:
                raise ValueError(f"push constant {member!r} must be an int, uint or float, or several of them")
            push.update((name.strip(), found[1]) for name in found[2].split(","))
    return constants, push


@functools.cache
def source_constants(path: Path) -> tuple[dict, dict]:
    """`constants_of` a source file. Raises ValueError if a declaration depends on a define: all variants of a source
    have the same constants.
    """
    text = with_includes(path, path.parent)
    depth = 0
    always = []
    for line in text.splitlines():
        depth += line.lstrip().startswith("#if")
        always.append(line if depth == 0 else "")
        depth -= line.lstrip().startswith("#endif")
    found = constants_of("\n".join(always))
    if found != constants_of(text):
        raise ValueError(f"{path.name}: constants and push constants must stand outside of #if")
    return found


def format_constants(folder: Path, defines: dict) -> dict:
    """The specialization constants of the file of a variant's FORMAT."""
    if "FORMAT" not in defines:
        return {}
    return source_constants(folder / "quant" / f"{str(defines['FORMAT']).lower()}.glsl")[0]


def with_includes(path: Path, folder: Path) -> str:
    """The text of a source with its includes expanded, except for files generated per variant."""
    if not path.exists():
        return ""
    return INCLUDE.sub(
        lambda found: with_includes(folder / found[1], folder) or with_includes(path.parent / found[1], folder),
        path.read_text(),
    )


def sources_digest(folder: Path) -> str:
    """A hash of all sources of the SPIR-V files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".comp", ".glsl", ".toml", ".py"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_variant(folder: Path, variant: dict, output: Path) -> None:
    """Compile one variant. Raises subprocess.CalledProcessError with glslangValidator's message in stdout.

    The include of a variant's FORMAT is available as selected_format.glsl, since GLSL cannot include a file whose name
    is a macro.
    """
    defines = [f"-D{name}={value}" for name, value in variant["defines"].items()]
    # Other processes and threads may compile the same variant.
    temporary = output.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    with tempfile.TemporaryDirectory() as generated:
        if "FORMAT" in variant["defines"]:
            (Path(generated) / "selected_format.glsl").write_text(
                f'#include "quant/{variant["defines"]["FORMAT"].lower()}.glsl"\n'
            )
        subprocess.run(
            [
                "glslangValidator",
                "-V",
                "--target-env",
                variant["target"],
                f"-I{folder}",
                f"-I{generated}",
                *defines,
                "-o",
                str(temporary),
                str(folder / variant["source"]),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    name_component_types(temporary)
    temporary.replace(output)


def name_component_types(path: Path) -> None:
    """Replace the number of bits that cooperative_matrix.glsl writes as component type by the <id> of that float type.
    All float types move before the first matrix type, since types must be declared before use.

    Layout: SPIR-V specification, "Physical Layout of a SPIR-V Module": five words, then instructions of
    (words << 16 | opcode).
    """
    words = array.array("I", path.read_bytes())
    instructions = []
    at = 5
    while at < len(words):
        instructions.append(words[at : at + (words[at] >> 16)])
        at += words[at] >> 16
    opcodes = [instruction[0] & 0xFFFF for instruction in instructions]
    if OP_TYPE_COOPERATIVE_MATRIX not in opcodes:
        return
    floats = [each for each, opcode in zip(instructions, opcodes) if opcode == OP_TYPE_FLOAT]
    others = [each for each, opcode in zip(instructions, opcodes) if opcode != OP_TYPE_FLOAT]
    type_of_bits = {bits: name for _, name, bits, *_ in floats}
    for instruction in others:
        if instruction[0] & 0xFFFF == OP_TYPE_COOPERATIVE_MATRIX:
            instruction[2] = type_of_bits[instruction[2]]
    first = min(opcodes.index(OP_TYPE_FLOAT), opcodes.index(OP_TYPE_COOPERATIVE_MATRIX))
    path.write_bytes(b"".join(part.tobytes() for part in (words[:5], *others[:first], *floats, *others[first:])))


def main() -> int:
    """Compile all variants, unless the output is up to date. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile shaders/variants.toml to SPIR-V files and variants.json.")
    parser.add_argument("--output", type=Path, required=True, help="folder for the .spv files and variants.json")
    arguments = parser.parse_args()
    folder = Path(__file__).resolve().parent
    arguments.output.mkdir(parents=True, exist_ok=True)
    digest = sources_digest(folder)
    manifest = arguments.output / "variants.json"
    variants = expand(folder / "variants.toml")
    if manifest.exists() and json.loads(manifest.read_text())["digest"] == digest:
        return 0
    manifest.unlink(missing_ok=True)  # until all variants are compiled
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {
            variant["name"]: pool.submit(compile_variant, folder, variant, arguments.output / f"{variant['name']}.spv")
            for variant in variants
        }
    for name, job in jobs.items():
        if job.exception():
            print(f"{name}: {getattr(job.exception(), 'stdout', job.exception())}", file=sys.stderr)
            return 1
    manifest.write_text(json.dumps({"digest": digest, "variants": variants}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
