"""Answers held to a structure: JSON schemas and tool choices become token masks, by the llguidance library.

Stage: 3 prompt (checking.py: is what is asked for possible?) and 5 step (answer.py: which token may come next?).
"""
