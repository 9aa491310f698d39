"""Content vectors of a voice's training data, by faiss."""
