"""Formats tables as Ollama's command does: left-aligned, four spaces apart, without lines."""

GAP = "    "


def columns(rows: list[list], header: list[str] | None = None, indent: str = "") -> list[str]:
    """Return the lines of a table, without trailing spaces. Rows may differ in length."""
    lines = [[str(cell) for cell in row] for row in ([header] if header else []) + rows]
    widths = [
        max((len(line[at]) for line in lines if at < len(line)), default=0)
        for at in range(max(map(len, lines), default=0))
    ]
    return [(indent + GAP.join(cell.ljust(width) for cell, width in zip(line, widths))).rstrip() for line in lines]
