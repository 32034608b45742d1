"""Whole episodes of the real environment."""
