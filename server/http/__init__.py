"""HTTP itself: bodies and answers, streams, access rules, request ids, limits, metrics, the log, the requests that
run.
"""
