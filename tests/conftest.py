"""Fixtures that several test files share."""

import pytest

_figures: list[str] = []


@pytest.fixture
def record_figure():
    """Keep a measured figure for the summary at the end of the run."""
    return _figures.append


def pytest_terminal_summary(terminalreporter):
    if _figures:
        terminalreporter.section("measured")
        for line in _figures:
            terminalreporter.line(line)
