"""`gptoss bench`: how fast a running server answers, in a minute."""
