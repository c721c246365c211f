"""`ApiError`: an error answer with its status, raised anywhere below a route. `http/guard.py` and, for /v1,
`openai/errors.py` turn it into a response.
"""

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left before its answer


class ApiError(Exception):
    """`status` and the text of `{"error": ...}`. is_of_stream: an error that Ollama finds only after it has begun a
    stream; such errors have another content type.
    """

    def __init__(self, status: int, message: str, is_of_stream: bool = False):
        super().__init__(message)
        self.status = status
        self.message = message
        self.is_of_stream = is_of_stream
