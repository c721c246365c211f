"""Tokens as llama.cpp finds them, in a process of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from places import SUPPORT
from varied_texts import varied_texts
from vulkan_drivers import missing

from vkbackend.gguf.reader import GGUFFile
from vkbackend.tokenizer import Tokenizer
from vkbackend.tokenizer.vocabulary import TokenType


def llama_cpp(requests: dict) -> dict:
    if importlib.util.find_spec("xllamacpp") is None:
        missing("xllamacpp is not installed (bash scripts/setup.sh --tests installs it)")
    program = SUPPORT / "llama_cpp_tokenize.py"
    done = subprocess.run(
        [sys.executable, program], input=json.dumps(requests), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def special_texts(tokenizer) -> list[str]:
    vocabulary = tokenizer._vocabulary
    # llama.cpp of 2026 treats "</s>" as a control token in every vocabulary; the one in Ollama 0.12.11 did not.
    return [
        text
        for text, kind in zip(vocabulary.tokens, vocabulary.types)
        if kind in (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED) and text != "</s>"
    ]


def compare_with_llama_cpp(paths: list[Path], count: int, seed: int):
    tokenizers = {str(path): Tokenizer.from_gguf(GGUFFile.open(path)) for path in paths}
    requests = {
        path: [
            {"content": text, "add_special": index % 2 == 0, "parse_special": index % 3 > 0}
            for index, text in enumerate(varied_texts(count, seed, special_texts(tokenizer)))
        ]
        for path, tokenizer in tokenizers.items()
    }
    replies = llama_cpp(requests)
    for path, tokenizer in tokenizers.items():
        assert len(replies[path]) == count
        for request, reply in zip(requests[path], replies[path]):
            ids = tokenizer.encode(request["content"], request["add_special"], request["parse_special"])
            assert ids == [token_id for token_id, _ in reply], (path, request)
            assert [tokenizer.token_bytes(token_id).hex() for token_id in ids] == [piece for _, piece in reply], (
                path,
                request,
            )
