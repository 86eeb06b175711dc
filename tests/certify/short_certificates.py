"""Two short conversations, and what of a certificate did not pass."""

from __future__ import annotations

from landrace.certify import Certificate

SHORT = [
    [{"role": "user", "content": "Is ice lighter than water?"}, {"role": "assistant", "content": "Yes, it floats."}],
    [{"role": "user", "content": "冰比水轻吗？"}, {"role": "assistant", "content": "是的，它会浮起来。"}],
]


def failures(certificate: Certificate) -> list[tuple[str, float, float | None]]:
    return [(path.name, path.largest, path.equal_experts) for path in certificate.paths if not path.passed]
