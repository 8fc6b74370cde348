"""Pictures: a canvas, curves, palettes."""
