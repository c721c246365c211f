"""`ApiError`: an answer other than success, raised anywhere below a route and turned into a response by app.py's middleware."""


class ApiError(Exception):
    """`status` and the words of `{"error": ...}`."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message
