"""What a trained experiment becomes: a voice, its card, its index."""
