"""Tools that the operator's MCP servers run, not the client: those of type mcp, and OpenAI's own, which we call hosted.

Stage: 2 validate → 3 prompt, and 7 SSE.
Owns: what a request may offer of them, their items, and the turns of the model between which they are run.
Does not know: how servers are reached (mcp_servers/); how all tools together are told to the model (tools.py).

Begin at mcp_tools.py and hosted_tools.py (what is offered), then mcp_turns.py (what is run).
"""
