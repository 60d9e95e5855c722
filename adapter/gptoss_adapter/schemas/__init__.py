"""The shapes of OpenAI's API: what clients send (chat) and what they get (answers).

Stage: 2 validate.
Owns: every field name of the HTTP API, and which values of it this server takes.
Does not know: what becomes of a request.
"""
