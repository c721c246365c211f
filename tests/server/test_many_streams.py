"""64 streams at once for ten seconds, a fifth of whose clients leave: no error, nothing is leaked, the event loop is on
time.

`soak_streams.py` runs longer, on a starter model.
"""

import json

from soak_streams import problems, run
from tiny_gguf import write_tiny_gguf

LAG_BAR = 0.1  # seconds: the bar is half of it, on a machine that has nothing else to do


def test_64_streams_with_clients_that_leave(device, tmp_path, record_figure):
    figures = run(write_tiny_gguf(tmp_path / "tiny.gguf"), 64, 10, tmp_path)
    record_figure(
        f"64 streams: {figures['whole']} whole, {figures['left_early']} left, {figures['tokens_per_second']} tok/s, "
        f"loop lag p99 at most "
        f"{figures['loop_lag_p99_at_most']} s, memory grew by {figures['growth_bytes'] / (1 << 20):.1f} MiB"
    )
    assert not problems(figures, LAG_BAR)
    assert figures["whole"] > 50 and figures["left_early"] > 10, "the test tests nothing"
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    answered = [line for line in lines if line["logger"] == "access" and line["path"] == "/api/chat"]
    assert all(line["request_id"] and line["seconds"] >= 0 for line in answered) and {200} == {
        line["status"] for line in answered
    }
    assert not [line for line in lines if line["level"] == "ERROR"]
