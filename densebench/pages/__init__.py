"""Pages: one self-contained HTML file each, with its own style and script, that also works without script."""
