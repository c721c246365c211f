"""The `vkbackend` command: one file per group of commands, with the texts and columns of Ollama's command.

Commands about models send HTTP requests to a server (`client.py`); `devices`, `check` and `bench` use the devices
directly. A new command is a file here and a row of `main.COMMANDS`.
"""
