"""HTTP itself: bodies and answers, streams, connections, access rules, request ids, limits, metrics, the log and the
running requests.
"""
