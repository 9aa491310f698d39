"""The engine: from a recording to sound, at any length."""
