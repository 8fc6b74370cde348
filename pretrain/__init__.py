"""Pretraining methods, a file or a folder each: `densebench ls methods`."""
