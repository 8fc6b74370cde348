"""Looking at backbones without labels: pictures of their features, and label-free figures, on one page."""
