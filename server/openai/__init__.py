"""The OpenAI API on top of the native one: requests become those of `wire/native.py`, answers take OpenAI's shapes.

`requests.py` converts requests, `answers.py` answers. `choices.py` runs several answers to one request concurrently,
`scored.py` runs completions that Ollama does not have: `echo`, `raw`, and prompts as token ids.
"""
