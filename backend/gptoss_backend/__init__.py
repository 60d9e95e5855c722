"""What runs inside Triton's Python stubs, and the contract that the adapter shares.

Importing this package imports nothing heavy: `contract`, `settings` and `harmony` need no torch.
"""
