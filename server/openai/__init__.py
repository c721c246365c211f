"""The OpenAI API over the native one: OpenAI's requests become those of `wire/native.py`, answers take OpenAI's
shapes.

`requests.py` converts what comes in, `answers.py` what goes out. `choices.py` runs several answers to one request at
the same time, `scored.py` the completions that Ollama does not have: `echo`, `raw`, prompts as token ids.
"""
