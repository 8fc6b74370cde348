"""The bridge to torchvision (BSD-3-Clause): its detectors on our backbones and data sets, trained, and run on images.

Nothing else imports torchvision's models or operators.
"""

from __future__ import annotations

from densebench.torchvision_ops import make_importable

make_importable()
