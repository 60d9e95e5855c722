"""An EAGLE-3 draft head (https://arxiv.org/abs/2503.01840): one decoder layer that guesses what the model will say."""
