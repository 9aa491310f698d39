"""Training of voices: recordings to features, features to weights, weights to voice files."""
