"""The OpenAI API over the native one: requests become those of messages.py, answers are told in OpenAI's shapes.

requests.py converts what comes in, answers.py what goes out, stream.py sends it as server-sent events, choices.py
runs several answers to one request side by side, scored.py the completions that Ollama does not know: `echo`, `raw`,
prompts as token ids.
"""
