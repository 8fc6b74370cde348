"""Scores, records, tables, rankings, reports."""
