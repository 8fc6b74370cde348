"""Evaluation protocols, one file each: `densebench ls protocols`. Modules without an Evaluator are shared algorithms."""
