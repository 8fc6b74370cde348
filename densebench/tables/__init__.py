"""Whole tables: a file that says which backbones are scored by which protocols on which data sets, and what carries it out."""
