"""Networks, losses, batches and steps."""
