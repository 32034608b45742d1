"""The world model: its networks, its loss, its training, and the expert as it sees it."""
