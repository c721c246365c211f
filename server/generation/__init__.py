"""What /api/chat, /api/generate and their OpenAI counterparts share: plan a request, run the engine, shape the
answers. `turn.replies` is the way that every request takes; nothing here knows an HTTP request.
"""
