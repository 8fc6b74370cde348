"""Evaluation protocols, a file or a folder each: `densebench ls protocols`."""
