"""The papers' tables as data: published.csv, one value a row."""
