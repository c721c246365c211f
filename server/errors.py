"""`ApiError`: an answer other than success, raised anywhere below a route and turned into a response by app.py's
middleware.
"""

CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that left before its answer


class ApiError(Exception):
    """`status` and the words of `{"error": ...}`. is_of_stream: raised for what the original finds only after it has
    begun a stream, whose errors have a content type of their own.
    """

    def __init__(self, status: int, message: str, is_of_stream: bool = False):
        super().__init__(message)
        self.status, self.message, self.is_of_stream = status, message, is_of_stream
