"""Content vectors of a voice's training data: the protocol and faiss."""
