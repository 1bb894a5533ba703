"""Universal image segmentation with one model: panoptic, instance and semantic."""

from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig

__all__ = ["Mask2Former", "Mask2FormerConfig"]
