"""Requests and answers of both APIs as dataclasses."""
