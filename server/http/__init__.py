"""HTTP itself: bodies and answers, streams, connections, access rules, request ids, limits on bodies, the log and the
running requests.
"""
