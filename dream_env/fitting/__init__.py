"""How a world model comes out of recordings: gradient steps, on one device or many, and what they are judged by."""
