"""Anthropic's Messages API, around the same `Turn` as chats.

Begin at plan.py (request → contract), then answering.py (one message from its start to its end).
"""
