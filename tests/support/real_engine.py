"""An engine in a process of its own, for real_sizes.py: real_engine.py PROGRAM MODEL.gguf

PROGRAM: "vulkan" and "cpu" are vkbackend's paths; "cpu 1" is the latter with one thread. "llama.cpp 2" is xllamacpp
with two threads, "llama.cpp vulkan" the llama-server that LLAMA_SERVER names. The first line of output is JSON about
loading. Each line of input is JSON {"prompt": ..., "tokens": ...}; it is answered with a line of the figures in
`Timing`. A device has as much memory as DEVICE_GIB says (see scarce_memory.py).
"""

import atexit
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from live_server import free_port

CONTEXT = 4096


@dataclass(frozen=True)
class Timing:
    """An answer. prompt_seconds: until the first token; decode_seconds: from then to the last of `tokens` tokens;
    cpu_seconds: of all threads, for the whole request.
    """

    prompt_tokens: int
    prompt_seconds: float
    tokens: int
    decode_seconds: float
    cpu_seconds: float


Run = Callable[[str, int], tuple[int, float, int, float]]  # prompt, tokens -> the first four figures of Timing


def main(program: str, model: str) -> None:
    clock = time.process_time
    name, _, backend = program.partition(" ")
    if name != "llama.cpp":
        loaded, run = _own(model, name, int(backend or 0))
    elif backend == "vulkan":
        loaded, run, clock = _llama_server(model)
    else:
        loaded, run = _llama_cpp(model, int(backend))
    print(json.dumps(loaded), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begin = clock()
        figures = run(asked["prompt"], asked["tokens"])
        print(json.dumps(asdict(Timing(*figures, clock() - begin))), flush=True)


def _own(model: str, path: str, threads: int) -> tuple[dict, Run]:
    os.environ["OLLAMA_VULKAN"] = "1" if path == "vulkan" else "0"
    from scarce_memory import limit_memory

    from vkbackend.engine.request import Finished, GenerationRequest, SamplingOptions
    from vkbackend.placement.opening import open_engine

    limit_memory()
    begin = time.process_time()
    opened = open_engine(model, context_length=CONTEXT, num_parallel=1, num_threads=threads)
    loading = time.process_time() - begin

    def run(prompt: str, tokens: int) -> tuple[int, float, int, float]:
        options = SamplingOptions(temperature=0.0, repeat_penalty=1.0)
        request = GenerationRequest(opened.tokenizer.encode(prompt), options, num_predict=tokens)
        (last,) = (event for event in opened.engine.generate(request) if isinstance(event, Finished))
        return last.prompt_tokens, last.prompt_seconds, last.tokens, last.decode_seconds

    facts = {"device": opened.device_name, "size": opened.size, "size_vram": opened.size_vram, "load_seconds": loading}
    return facts, run


def _llama_cpp(model: str, threads: int) -> tuple[dict, Run]:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = model, CONTEXT, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)

    def run(prompt: str, tokens: int) -> tuple[int, float, int, float]:
        return _figures(server.handle_completions(_completion(prompt, tokens))["timings"])

    return {"device": f"CPU, {threads} threads"}, run


def _llama_server(model: str) -> tuple[dict, Run, Callable[[], float]]:
    """llama.cpp's own server, on its first Vulkan device; it ends with this process. The third: its CPU seconds."""
    program = os.environ["LLAMA_SERVER"]
    port = free_port()
    environment = os.environ | {"GGML_VK_VISIBLE_DEVICES": "0", "LD_LIBRARY_PATH": str(Path(program).parent)}
    command = [program, "-m", model, "-ngl", "99", "-np", "1", "-c", str(CONTEXT), "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(server.kill)
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=10).close()
            break
        except OSError:
            if server.poll() is not None:
                sys.exit(f"{program} ended with status {server.returncode}")
            time.sleep(0.2)

    def run(prompt: str, tokens: int) -> tuple[int, float, int, float]:
        body = json.dumps(_completion(prompt, tokens)).encode()
        request = urllib.request.Request(f"{url}/completion", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return _figures(json.load(answer)["timings"])

    def cpu_seconds() -> float:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    return {"device": "Vulkan"}, run, cpu_seconds


def _completion(prompt: str, tokens: int) -> dict:
    return {"prompt": prompt, "n_predict": tokens, "temperature": 0.0, "cache_prompt": False, "ignore_eos": True}


def _figures(timings: dict) -> tuple[int, float, int, float]:
    return timings["prompt_n"], timings["prompt_ms"] / 1e3, timings["predicted_n"], timings["predicted_ms"] / 1e3


if __name__ == "__main__":
    main(*sys.argv[1:])
