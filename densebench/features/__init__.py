"""The features of a backbone: views of images, and their extraction."""
