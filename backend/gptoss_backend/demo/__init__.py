"""Checkpoints made on the spot: the demo model, and random ones of any shape. Nothing here is OpenAI's."""
