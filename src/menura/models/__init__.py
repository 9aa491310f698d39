"""The networks: one architecture a module, torch only."""
