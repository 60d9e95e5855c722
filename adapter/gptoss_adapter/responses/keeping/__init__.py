"""The responses and conversations that are kept, in a file of SQLite.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: the file, its tables, and the two stores through which all else reads and writes them.
Does not know: HTTP routes; how an answer is made.

Begin at store.py and conversation_store.py (what others call), then database.py (what is one transaction).
"""
