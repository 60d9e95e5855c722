"""What is particular to /v1/responses: items, conversations that are kept, typed events.

Stage: 2 validate → 3 prompt, and 7 SSE.
Owns: the way from items to a chat and from deltas to items, and the responses that are kept.
Does not know: HTTP routes, Triton.

Begin at plan.py (request → contract), then answering.py (one response from its start to its end). What is kept is in
keeping/, what servers run in a client's stead in server_tools/.
"""
