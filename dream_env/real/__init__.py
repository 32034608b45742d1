"""The real environments, how each is made, and what they say about success."""
