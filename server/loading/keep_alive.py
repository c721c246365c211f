"""How long models stay loaded and how long loading may take, from the environment. Out: nanoseconds."""

from vkbackend import settings

from ..go import durations


def default_keep_alive() -> int:
    """OLLAMA_KEEP_ALIVE in nanoseconds: negative means forever, an invalid value 5 minutes."""
    value = _duration("OLLAMA_KEEP_ALIVE")
    return durations.FOREVER if value < 0 else value


def load_timeout() -> int:
    """OLLAMA_LOAD_TIMEOUT in nanoseconds: 0 and negative mean forever, an invalid value 5 minutes."""
    value = _duration("OLLAMA_LOAD_TIMEOUT")
    return value if value > 0 else durations.FOREVER


def _duration(name: str) -> int:
    """Read a duration (1h30m) or a number of seconds; nanoseconds, at most FOREVER; 5 minutes if it is neither."""
    text = settings.get(name)
    try:
        return durations.parse(text)
    except ValueError:
        try:
            return min(int(text) * durations.SECOND, durations.FOREVER)
        except ValueError:
            return durations.DEFAULT_KEEP_ALIVE
