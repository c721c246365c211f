"""Imports only point onward along a token's way (docs/architecture.md): a part knows what comes after it, never what comes before."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# In the order of the way; a part may import itself and parts after it. `settings`, `errors`, `gguf` are for everyone.
WAY = ["server", "vkbackend.check", "vkbackend.bench", "vkbackend.session", "vkbackend.engine", "vkbackend.models.load", "vkbackend.graph",
       "vkbackend.ops", "vkbackend.device"]
LEAVES = ["vkbackend.tokenizer", "vkbackend.gguf", "vkbackend.settings", "vkbackend.errors", "vkbackend.progress", "vkbackend._native"]
ENTRY_POINTS = ("vkbackend", "vkbackend.__main__")  # public names, looked up on first use; the command


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path):
    """Absolute names of what a file imports, wherever in it."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:  # `from .. import settings` imports vkbackend.settings
                yield f"{source}.{alias.name}" if part_of(f"{source}.{alias.name}") != part_of(source) else source


def part_of(name: str) -> str | None:
    """The entry of WAY or LEAVES that a module belongs to."""
    return next((part for part in WAY + LEAVES if name == part or name.startswith(part + ".")), None)


def violations() -> list[str]:
    wrong = []
    for path in [*(ROOT / "vkbackend").rglob("*.py"), *(ROOT / "server").rglob("*.py")]:
        name, own = module_name(path), part_of(module_name(path))
        for target in imported(path):
            other = part_of(target)
            if other is None or other == own or name in ENTRY_POINTS or own in WAY and other in LEAVES:
                continue
            if own is None or own in LEAVES and other in WAY or own in WAY and WAY.index(other) < WAY.index(own):
                wrong.append(f"{name} imports {target}")
    return wrong


def test_imports_point_onward():
    assert violations() == []


def test_the_rule_can_be_broken(monkeypatch):
    monkeypatch.setattr(f"{__name__}.WAY", WAY[::-1])
    assert "vkbackend.ops.rope imports vkbackend.device.dispatch" in violations()
