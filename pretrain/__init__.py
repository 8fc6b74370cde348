"""Pretraining methods, one file each: `densebench ls methods`. Modules without a Pretrainer are shared algorithms."""
