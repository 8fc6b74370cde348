"""Heads that turn patch features into classes."""
