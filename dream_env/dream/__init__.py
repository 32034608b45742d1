"""The world model as a Gymnasium environment."""
