"""Routes that turn text into vectors: /api/embed, /api/embeddings."""

ROUTES = []
