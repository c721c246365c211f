"""One function per route; `table.py` lists them all."""
