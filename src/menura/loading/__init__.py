"""From a request to resident networks."""
