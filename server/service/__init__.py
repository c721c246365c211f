"""What running the server as a service takes: request ids, the log, metrics, limits, an orderly end, the OpenAPI document."""
