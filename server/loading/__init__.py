"""Which models are in memory: loading, keeping, giving way."""
