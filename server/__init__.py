"""The HTTP server: Ollama's API over a `vkbackend` engine. May import `vkbackend`, never the other way round."""
