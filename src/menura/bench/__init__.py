"""How fast, in how much memory: the same measurements on anyone's machine."""
