"""What /api/chat, /api/generate and their OpenAI counterparts share: plan a request, run the engine, shape the
answers.
"""
