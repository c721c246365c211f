"""Formats the results of `bench` as lines of text."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from ..go.human import human_bytes
from .terminal.table import columns

if TYPE_CHECKING:
    from vkbackend.bench.compare import Comparison, Range
    from vkbackend.bench.device_speed import DeviceSpeed
    from vkbackend.bench.host import HostShare
    from vkbackend.bench.model import Result
    from vkbackend.bench.profile import StepProfile

MEBIBYTE = 1 << 20


def rates_lines(result: Result) -> list[str]:
    """Format the rates of a model, with facts about model, device and memory."""
    speed, memory = result.speed, result.memory
    facts = [
        [
            "model",
            f"{result.model} ({result.architecture}, {result.weights / 1e6:.1f}M weights per token, "
            f"{human_bytes(result.weight_bytes)})",
        ],
        ["device", result.device],
    ]
    if speed:
        half = f", f16 {speed.f16 / 1e9:.1f} GFLOP/s" if speed.f16 else ""
        facts.append(
            [
                "device speed",
                f"read {speed.read / 1e9:.2f} GB/s, copy {speed.copy / 1e9:.2f} GB/s; f32 {speed.f32 / 1e9:.1f} "
                f"GFLOP/s{half}",
            ]
        )
    facts += [
        ["load", f"{result.load_seconds:.2f} s, first token after another {result.first_token_seconds:.2f} s"],
        [
            "device memory",
            f"weights {_mib(memory.weights)}, KV cache {_mib(memory.cache)}, other {_mib(memory.device_other)}",
        ],
        [
            "process memory",
            f"{_mib(memory.process)}, peak {_mib(memory.process_peak)}, before loading {_mib(memory.process_before)}",
        ],
    ]
    return [*columns(facts), "", *columns(_rate_rows(result), _rate_header(speed))]


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MEBIBYTE:.1f} MiB"


def _rate_header(speed: DeviceSpeed | None) -> list[str]:
    return [
        "",
        "TOKENS/S",
        "SLOWEST",
        "FASTEST",
        "GB/S",
        *(["OF BEST"] if speed else []),
        "GFLOP/S",
        *(["OF BEST"] if speed else []),
    ]


def _rate_rows(result: Result) -> list[list[str]]:
    rows, speed = [], result.speed
    for rate in result.rates:
        name = (
            f"prefill {rate.tokens}"
            if rate.phase == "prefill"
            else f"decode {rate.batch} x {rate.tokens} after {rate.context}"
        )
        rows.append(
            [
                name,
                f"{rate.rate:.1f}",
                f"{rate.slowest:.1f}",
                f"{rate.fastest:.1f}",
                f"{rate.bytes_per_second / 1e9:.2f}",
                *([f"{rate.bytes_per_second / speed.bandwidth:.0%}"] if speed else []),
                f"{rate.flops_per_second / 1e9:.1f}",
                *([f"{rate.flops_per_second / speed.f32:.0%}"] if speed else []),
            ]
        )
    return rows


def profile_lines(profiles: list[StepProfile]) -> list[str]:
    """Format the time of each op and kernel variant."""
    lines = []
    for each in profiles:
        lines += [
            "",
            f"{each.phase} of {each.tokens} after {each.context} tokens: {1e3 * each.plain_seconds:.2f} ms; "
            f"with timestamps {1e3 * each.step_seconds:.2f} ms, device {1e3 * each.device_seconds:.2f} ms",
        ]
        rows = [
            [
                it.op,
                it.variant,
                it.calls,
                f"{it.seconds * 1e3:.3f}",
                f"{it.seconds / each.device_seconds:.1%}",
                f"{it.num_bytes / 1e6:.2f}",
                f"{it.bytes_per_second / 1e9:.2f}",
                f"{it.flops_per_second / 1e9:.1f}" if it.flops else "-",
            ]
            for it in each.variants
        ]
        lines += columns(rows, ["OP", "VARIANT", "CALLS", "MS", "SHARE", "MB", "GB/S", "GFLOP/S"])
    return lines[1:]


def host_lines(found: list[HostShare]) -> list[str]:
    """Format the host's time in a decode step."""
    rows = [
        [
            each.batch,
            each.context,
            f"{each.turn_ms:.3f}",
            f"{each.step_ms:.3f}",
            f"{each.prompt_token_ms:.4f}" if each.context else "-",
            each.dispatches,
        ]
        for each in found
    ]
    return [
        f"Host time of a decode step ({found[0].device}), medians of {found[0].steps} steps:",
        *columns(
            rows, ["SEQUENCES", "CONTEXT", "TOTAL MS", "MS WITHOUT SAMPLING", "MS OF A PROMPT TOKEN", "DISPATCHES"]
        ),
    ]


def comparison_lines(found: Comparison) -> list[str]:
    """Show rates and ratios as median (least-most)."""
    rows = [
        [
            f"{line.phase} {line.size}" + (f", {line.clients} clients" if line.clients > 1 else ""),
            line.server,
            _range(line.rate, 1),
            _range(line.ratio, 2) if line.ratio else "",
            line.rate.rounds,
        ]
        for line in found.lines
    ]
    return columns(rows, ["", "SERVER", "TOKENS/S", f"{found.own.upper()} / SERVER", "ROUNDS"])


def _range(found: Range, digits: int) -> str:
    return f"{found.median:.{digits}f} ({found.least:.{digits}f}-{found.most:.{digits}f})"


def dataclass_columns(found: list) -> list[str]:
    """Format dataclasses as a table with a column per field; floats with four digits."""
    if not found:
        return ["no measurements"]
    names = [each.name for each in fields(found[0])]
    rows = [
        [f"{value:.4g}" if isinstance(value, float) else value for value in (getattr(each, name) for name in names)]
        for each in found
    ]
    return columns(rows, [name.replace("_", " ").upper() for name in names])
