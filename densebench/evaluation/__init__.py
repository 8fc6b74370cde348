"""The frame of all evaluation protocols."""
