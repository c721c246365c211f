"""Go's conventions that clients of Ollama rely on: JSON both ways, quoting, durations, human-readable numbers."""
