"""The user's own folders: which files belong together, and what the values, colours or shapes in them mean."""
