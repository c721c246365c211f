"""One function per route; each module exports `ROUTES`, which app.py puts together."""
