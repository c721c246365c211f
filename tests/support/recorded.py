"""Reads recorded vectors and reports every difference of a file at once.

check(load("format_numbers", kind="human_bytes"), lambda vector: (human_bytes(vector["input"]), vector["output"]))
"""

import json

from shared_data import shared


def load(file: str, kind: str | None = None) -> list[dict]:
    """The vectors of a file, those of one kind if it is named; skips the test where the data is not at hand."""
    vectors = json.loads((shared("vectors") / f"{file}.json").read_text())
    chosen = [vector for vector in vectors if kind is None or vector.get("kind") == kind]
    assert chosen, f"{file}.json holds no vector of kind {kind}"
    return chosen


def check(vectors: list[dict], got_and_wanted):
    """`got_and_wanted(vector)` -> a pair; all pairs that differ are shown."""
    differences = []
    for vector in vectors:
        got, wanted = got_and_wanted(vector)
        if got != wanted:
            differences.append(f"{vector['name']}: got {got!r}, want {wanted!r}")
    assert not differences, f"{len(differences)} of {len(vectors)} differ:\n" + "\n".join(differences[:20])


def outcome(function, *errors):
    """The value of `function()`, or {"error": text} where it raises one of `errors`."""
    try:
        return function()
    except errors as error:
        return {"error": str(error)}


def recorded_outcome(vector: dict, key: str = "output"):
    return {"error": vector["error"]} if "error" in vector else vector[key]
