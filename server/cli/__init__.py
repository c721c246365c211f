"""The `vkbackend` command: one file per group of commands, in words and columns those of Ollama's command.

Commands that work with models speak HTTP to a running server (`client.py`); `devices`, `check` and `bench` work on
the devices themselves.
"""
