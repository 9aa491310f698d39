"""Voices and weights on this computer: the library, installing, assets."""
