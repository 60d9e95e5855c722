"""One small router per resource.

Stage: 1 route, 2 validate.
"""
