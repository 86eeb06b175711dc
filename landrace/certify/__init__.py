"""The parity certificate: the trainer, the engine and transformers give one model's tokens the same probabilities."""

from landrace.certify.certificate import BOUNDS, Bound, Certificate, PathResult, PromptResult
from landrace.certify.paths import certify

__all__ = ["BOUNDS", "Bound", "Certificate", "PathResult", "PromptResult", "certify"]
