"""Few labels in: a recommendation among backbones, and new pictures labelled."""
