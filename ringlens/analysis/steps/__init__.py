"""Steps of a thought: where each begins and ends."""

from ringlens.analysis.steps.segmentation import Step, segment

__all__ = ["Step", "segment"]
