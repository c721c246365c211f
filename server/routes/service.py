"""What operators and tools ask for: /metrics, /healthz, /api/devices, /openapi.json."""

ROUTES = []
