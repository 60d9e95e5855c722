"""Harmony, the format GPT-OSS reads and writes: prompts out of messages, channels out of tokens."""
