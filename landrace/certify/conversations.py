"""What a model is certified on when nobody gives anything else: short exchanges in several languages."""

from __future__ import annotations

CONVERSATIONS: tuple[tuple[dict[str, str], ...], ...] = (
    (
        {"role": "user", "content": "Why does ice float on water?"},
        {"role": "assistant", "content": "Frozen water is less dense than liquid water, so the ice is pushed upwards."},
    ),
    (
        {"role": "user", "content": "Tủ lạnh trong căn hộ không còn lạnh nữa, tôi phải làm gì?"},
        {"role": "assistant", "content": "Bạn hãy kiểm tra phích cắm trước, rồi gọi cho bộ phận sửa chữa."},
    ),
    (
        {"role": "user", "content": "请用一句话解释什么是光合作用。"},
        {"role": "assistant", "content": "植物利用阳光把二氧化碳和水变成养分并释放氧气。"},
    ),
    (
        {"role": "user", "content": "Koliko dana unapred mogu da otkažem rezervaciju?"},
        {"role": "assistant", "content": "Rezervaciju možete da otkažete najkasnije sedam dana pre dolaska."},
        {"role": "user", "content": "A ako otkažem kasnije?"},
        {"role": "assistant", "content": "Tada zadržavamo cenu prve noći."},
    ),
    (
        {"role": "user", "content": "Write a line of Python that sums the squares of 1 to 10."},
        {"role": "assistant", "content": "`sum(n * n for n in range(1, 11))` gives 385. 😀"},
    ),
    (
        {"role": "user", "content": "ما هي عاصمة المغرب؟ Отвечай по-русски."},
        {"role": "assistant", "content": "Столица Марокко — Рабат."},
    ),
)
