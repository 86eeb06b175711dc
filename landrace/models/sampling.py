"""How a token is chosen from a row of logits, as the rooms above name it."""

from landrace.kernels.reference.sampling import log_total
from landrace.kernels.sampling_rule import GREEDY, NOT_FINITE, SamplingRule

__all__ = ["GREEDY", "NOT_FINITE", "SamplingRule", "log_total"]
