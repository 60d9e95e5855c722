"""Tools that the operator's MCP servers run.

Stage: 2 validate (which tools there are), and between the turns of an answer.
Owns: the connections to those servers and to no others; how long a call may take, how much of a result is told.
Does not know: responses, items, the model. Only sdk_session.py knows the `mcp` package.
"""
