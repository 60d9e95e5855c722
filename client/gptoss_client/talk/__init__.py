"""The commands that talk to a running server: `gptoss chat` and `gptoss ask`."""
