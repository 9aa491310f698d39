"""From samples to content vectors: the protocol and the encoders that speak it."""
