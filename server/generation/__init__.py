"""Generating text, shared by /api/chat, /api/generate and their OpenAI counterparts: plan a request, run the engine,
shape the answers. Every request goes through `turn.replies`; nothing here knows HTTP requests.
"""
