"""Effects on sound, and cleaning it: every one a Processor, defined once, asked for by text, JSON or preset."""
