"""One model over several devices: who holds what, the processes that hold it, and how they talk.

`layout` divides a model, `memory_plan` and `choice` say where it fits, `driver` runs it from the engine's process,
`worker` is the main program of every other process.
"""
