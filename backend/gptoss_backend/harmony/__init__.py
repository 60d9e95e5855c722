"""Harmony, the format GPT-OSS reads and writes: prompts out of messages, channels out of tokens.

Begin at prompt.py (a chat → token ids) and channels.py (token ids → deltas).
"""
