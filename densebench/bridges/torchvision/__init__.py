"""Detectors of torchvision on our backbones: pyramids, training, and what is found in images.

Nothing else here imports torchvision's detection models or pycocotools.
"""

from __future__ import annotations

from densebench.torchvision_ops import make_importable

make_importable()
