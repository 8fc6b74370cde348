"""The bridge to MMSegmentation (Apache-2.0): its heads, pipelines, runner and metric on our backbones and data sets.

Nothing else imports mmseg, mmengine or mmcv.
"""

from __future__ import annotations

from densebench.bridges.mmsegmentation.importing import import_openmmlab

import_openmmlab()

from densebench.bridges.mmsegmentation.options import Data, Setup  # noqa: E402
from densebench.bridges.mmsegmentation.training import History, train  # noqa: E402
from densebench.bridges.mmsegmentation.validation import Validation  # noqa: E402

__all__ = ["Data", "History", "Setup", "Validation", "train"]
