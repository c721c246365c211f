"""One file per architecture, named as GGUF names it; nothing else lives here."""
