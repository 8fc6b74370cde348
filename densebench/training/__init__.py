"""The frame of all pretraining methods."""
