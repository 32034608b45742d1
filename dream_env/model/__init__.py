"""The world model: its networks, its loss, and the expert as it sees it."""
