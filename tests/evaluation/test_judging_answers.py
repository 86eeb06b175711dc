"""Answers of many forms in many languages: what is read from each, and above all what is not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from landrace.evaluation.judging import judge_text
from landrace.evaluation.task import Fields, Task

MOODS = {
    "en": ("happy", "sad", "calm"),
    "de": ("froh", "traurig", "ruhig"),
    "fr": ("heureux", "triste", "calme"),
    "es": ("alegre", "triste", "tranquilo"),
    "it": ("felice", "triste", "calmo"),
    "pt": ("feliz", "triste", "calmo"),
    "nl": ("blij", "droevig", "rustig"),
    "sv": ("glad", "ledsen", "lugn"),
    "fi": ("iloinen", "surullinen", "rauhallinen"),
    "hu": ("boldog", "szomorú", "nyugodt"),
    "cs": ("veselý", "smutný", "klidný"),
    "pl": ("wesoły", "smutny", "spokojny"),
    "ro": ("vesel", "trist", "calm"),
    "ru": ("радостный", "грустный", "спокойный"),
    "uk": ("радісний", "сумний", "спокійний"),
    "sr": ("весео", "тужан", "миран"),
    "tr": ("neşeli", "üzgün", "sakin"),
    "el": ("χαρούμενο", "λυπημένο", "ήρεμο"),
    "ar": ("سعيد", "حزين", "هادئ"),
    "he": ("שמח", "עצוב", "רגוע"),
    "fa": ("شاد", "غمگین", "آرام"),
    "hi": ("खुश", "दुखी", "शांत"),
    "bn": ("খুশি", "দুঃখী", "শান্ত"),
    "th": ("มีความสุข", "เศร้า", "สงบ"),
    "vi": ("vui vẻ", "buồn bã", "bình thản"),
    "id": ("gembira", "sedih", "tenang"),
    "zh": ("高兴", "悲伤", "平静"),
    "ja": ("嬉しい", "悲しい", "穏やか"),
    "ko": ("기쁨", "슬픔", "평온"),
}
REFUSED = "refused"
READINGS: tuple[tuple[str, str, int | str | None], ...] = (
    ("en", "The mood here is sad.", 1),
    ("en", "It is hardly sad.", None),
    ("en", "I do not think that it is happy.", None),
    ("en", "not, as I read it, happy", None),
    ("en", "No, it is sad.", 1),
    ("en", "neither happy nor sad but calm", 2),
    ("en", "happy rather than sad", 0),
    ("en", "Either happy or sad", None),
    ("en", '{"mood": "sad", "score": 0.8}', 1),
    ("en", '```json\n{\n  "label": "sad"\n}\n```', 1),
    ("en", "> **SAD!**", 1),
    ("en", "\\boxed{\\text{sad}}", 1),
    ("en", "* happy\n* sad", None),
    ("en", "happy would be wrong", None),
    ("en", "There is no doubt that it is happy", 0),
    ("en", "I thought of happy first. In the end my answer is sad. Calm was close.", 1),
    ("en", "I'm afraid I cannot judge that.", None),
    ("en", "I am sorry, I can't help with this.", REFUSED),
    ("en", "As a language model I do not feel happy.", REFUSED),
    ("de", "Das klingt traurig.", 1),
    ("de", "Keineswegs traurig.", None),
    ("de", "Nicht froh, sondern traurig.", 1),
    ("de", "Froh ist er nicht.", None),
    ("de", "Ich glaube nicht, dass er froh ist.", None),
    ("de", "Die endgültige Antwort lautet traurig.", 1),
    ("de", "Leider kann ich Ihnen dabei nicht helfen.", REFUSED),
    ("fr", "Il n'est pas triste mais calme.", 2),
    ("fr", "Ni heureux ni triste.", None),
    ("fr", "Je ne sais pas.", REFUSED),
    ("es", "No está alegre, sino triste.", 1),
    ("es", "No puedo responder a eso.", REFUSED),
    ("it", "Sembrava felice, ma la risposta è triste.", 1),
    ("it", "Non è triste.", None),
    ("pt", "Não é feliz, é triste.", 1),
    ("pt", "Não consigo ajudar com isso.", REFUSED),
    ("nl", "Niet blij maar droevig.", 1),
    ("nl", "Het antwoord is blij.", 0),
    ("sv", "Inte glad utan ledsen.", 1),
    ("fi", "Ei iloinen vaan surullinen.", 1),
    ("hu", "Nem boldog, hanem szomorú.", 1),
    ("cs", "Není veselý.", None),
    ("pl", "Nie jest wesoły, ale smutny.", 1),
    ("ro", "Nu este vesel, ci trist.", 1),
    ("ru", "Он не грустный.", None),
    ("ru", "Я не думаю, что он грустный.", None),
    ("ru", "Казалось, что радостный. Ответ: грустный", 1),
    ("ru", "Не знаю.", REFUSED),
    ("uk", "Він не сумний.", None),
    ("sr", "Није весео него тужан.", 1),
    ("sr", "Не знам.", REFUSED),
    ("tr", "Neşeli değil, üzgün.", 1),
    ("tr", "Cevap veremem.", REFUSED),
    ("el", "Δεν είναι χαρούμενο, αλλά λυπημένο.", 1),
    ("el", "ΛΥΠΗΜΕΝΟ", 1),
    ("ar", "ليس حزين", None),
    ("ar", "بين سعيد وحزين", None),
    ("ar", "حَزِين", 1),
    ("he", "הוא לא עצוב", None),
    ("he", "בין שמח לעצוב", None),
    ("fa", "شاد نیست", None),
    ("hi", "यह दुखी नहीं है।", None),
    ("hi", "खुश नहीं बल्कि दुखी", 1),
    ("bn", "খুশি নয়।", None),
    ("th", "ไม่ใช่เศร้า", None),
    ("th", "คำตอบสุดท้ายคือเศร้า", 1),
    ("vi", "Không phải vui vẻ mà là buồn bã.", 1),
    ("vi", "Đáp án: buồn bã", 1),
    ("id", "Bukan gembira, melainkan sedih.", 1),
    ("zh", "并不悲伤", None),
    ("zh", "不是高兴，而是悲伤", 1),
    ("zh", "非常悲伤", 1),
    ("zh", "我无法回答", REFUSED),
    ("ja", "嬉しいではなく、悲しい", 1),
    ("ja", "悲しいとは言えません。", None),
    ("ko", "기쁨이 아니라 슬픔입니다.", 1),
    ("ko", "슬픔은 아닙니다.", None),
    ("ko", "기쁨과 슬픔", None),
)


def verdict(kind: Any, gold: Any, answer: str, language: str = "en", **values: Any) -> tuple[str, str | None]:
    task = Task("t", kind, "{q}", language=language, **values)
    (row,) = task.from_rows([{"q": "?", "answer": gold}]).rows
    judged = judge_text(task, row, answer)
    return judged.verdict, judged.parsed


@pytest.mark.parametrize(
    ("language", "answer", "place"), READINGS, ids=[f"{item[0]}-{item[1][:24]}" for item in READINGS]
)
def test_labels_in_many_languages(language: str, answer: str, place: int | str | None) -> None:
    labels = MOODS[language]
    found = verdict("classification", labels[0], answer, language, labels=labels)
    if isinstance(place, int):
        assert found == ("right" if place == 0 else "wrong", labels[place])
    else:
        assert found == (place or "unparsed", None)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("c", "C"),
        ("(C)", "C"),
        ("c) plum", "C"),
        ("C. plum", "C"),
        ("Plum", "C"),
        ("It is a fig tree.", "A"),
        ("It is a dog.", None),
        ("The answer is D, a pear, of course.", "D"),
        ("A fig", "A"),
        ("A is close, yet the answer is B", "B"),
        ("Not A but B.", "B"),
        ("B, not C", "B"),
        ("B is correct.", "B"),
        ("A or B", None),
        ("A) fig\nB) kiwi\nC) plum", None),
        ("BC", None),
        ("E", None),
        ("The fruit is vitamin C rich", None),
        ("La bonne réponse est la B, car c'est vrai.", "B"),
        ("Die richtige Antwort ist D.", "D"),
        ("答案选C", "C"),
        ("正解はBです。", "B"),
        ("정답은 D입니다.", "D"),
        ("Ответ: С", "C"),
        ("الجواب هو B", "B"),
        ("none of these", "D"),
        ("\\boxed{B}", "B"),
        ("<think>A? B!</think>C", "C"),
    ],
)
def test_options_by_letter_or_text(answer: str, letter: str | None) -> None:
    task = Task("t", "option", "{q}\n{choices}", fields=Fields(choices="options"))
    options = {"A": "fig", "B": "kiwi", "C": "plum", "D": "none of these"}
    for given in (options, list(options.values())):
        (row,) = task.from_rows([{"q": "Which?", "options": given, "answer": "C"}]).rows
        assert judge_text(task, row, answer).parsed == letter
        assert task.prompt_text(row) == "Which?\nA. fig\nB. kiwi\nC. plum\nD. none of these"


@pytest.mark.parametrize(
    ("labels", "answer", "label"),
    [
        (("entailment", "not_entailment"), "not entailment", "not_entailment"),
        (("entailment", "not_entailment"), "Not-Entailment", "not_entailment"),
        (("entailment", "neutral"), "not_entailment", None),
        (("entailment", "neutral"), "non-entailment", None),
        (("0", "1"), "-1", None),
        (("0", "1"), "1.5", None),
        (("0", "1"), "1,000", None),
        (("0", "1"), "1%", None),
        (("0", "1"), "１", "1"),
        (("0", "1"), "It is 1.", "1"),
        (("C", "C#", "C++"), "C#", "C#"),
        (("C", "Java"), "C#", None),
        (("yes", "no"), "No doubt: yes", "yes"),
        (("yes", "no"), "yes and no", None),
        (("对", "错"), "不对", None),
        (("예", "아니요"), "예를 들면", None),
        (("evet", "hayır"), "HAYIR", "hayır"),
    ],
)
def test_labels_that_are_easily_mistaken(labels: tuple[str, ...], answer: str, label: str | None) -> None:
    assert verdict("classification", labels[0], answer, labels=labels)[1] == label


@pytest.mark.parametrize(
    ("language", "answer", "number"),
    [
        ("en", "2,345", "2345"),
        ("en", "23,45,678", "2345678"),
        ("en", "$2,345.60", "2345.6"),
        ("en", "2,5", None),
        ("de", "2,5", "2.5"),
        ("de", "2.345", "2345"),
        ("de-CH", "2'345.5", "2345.5"),
        ("fr", "2\u202f345,5 €", "2345.5"),
        ("es", "2.345.678", "2345678"),
        ("en", "2 345", "2345"),
        ("en", "−3", "-3"),
        ("en", "–3", "-3"),
        ("en", "minus 3", "-3"),
        ("en", ".25", "0.25"),
        ("en", "¾", "0.75"),
        ("en", "2 1/3", "7/3"),
        ("en", "3e4", "30000"),
        ("en", "3 × 10⁻²", "0.03"),
        ("en", "6²", "36"),
        ("en", "25%", "25%"),
        ("en", "２３", "23"),
        ("ar", "٢٣٫٥", "23.5"),
        ("fa", "۲۳", "23"),
        ("hi", "२३", "23"),
        ("bn", "২৩", "23"),
        ("th", "๒๓", "23"),
        ("zh", "二百零三", "203"),
        ("zh", "答案是二十三", "23"),
        ("zh", "5千克", "5"),
        ("ja", "2万3千円です", "23000"),
        ("ko", "3만 5천", "35000"),
        ("en", "twenty-three", "23"),
        ("en", "2.5 million", "2500000"),
        ("pl", "2,5 mln", "2500000"),
        ("en", "\\boxed{23}", "23"),
        ("en", "\\boxed{}", None),
        ("en", "\\frac{3}{4}", "0.75"),
        ("en", "20 + 3 = 23", "23"),
        ("en", "23 = 20 + 3", "23"),
        ("en", "The answer is 23. It took 4 steps.", "23"),
        ("en", "4 bags of 5, so 20.", "20"),
        ("en", "The sum of 3 and 4 is 7.", "7"),
        ("en", "23 or 24", None),
        ("en", "not 23", None),
        ("en", "not 23 but 24", "24"),
        ("en", "22-24", None),
        ("en", "22 to 24", None),
        ("en", "11:45", None),
        ("en", "2024-05-01", None),
        ("en", "v2.3.4", None),
        ("en", "23rd", None),
        ("en", "B2", None),
        ("en", "", None),
        ("en", "1" * 5000, None),
        ("en", "1e9999999", None),
        ("en", "7/0", None),
        ("en", "infinity", "inf"),
        ("ru", "Ответ — 2,5.", "2.5"),
        ("vi", "Đáp án là 2.345,5", "2345.5"),
    ],
)
def test_numbers_are_read_whole(language: str, answer: str, number: str | None) -> None:
    assert verdict("number", "0", answer, language)[1] == number


def test_equal_numbers() -> None:
    for gold, answer, right in (
        ("0.5", "1/2", True), ("0.5", "50%", True), ("0.5", "50", False), ("50", "50%", True), ("1", "1%", False),
        ("1/3", "0.333", False), ("1234", "1,234", True), ("42", "٤٢", True), ("1", "-1", False), ("5", "1.5", False),
    ):  # fmt: skip
        assert (verdict("number", gold, answer)[0] == "right") is right, (gold, answer)


@pytest.mark.parametrize("answer", ["As an AI, I have no 7 fingers.", "I don't know.", "Ich weiß es nicht.", "不知道"])
def test_a_refusal_with_a_number_in_it_is_a_refusal(answer: str) -> None:
    assert verdict("number", "7", answer) == ("refused", None)


@pytest.mark.parametrize(
    ("gold", "answer", "found"),
    [
        ("\\frac{3}{4}", "$\\frac34$", "right"),
        ("\\frac{3}{4}", "0.75", "right"),
        ("3\\sqrt{2}", "$\\sqrt{18}$", "right"),
        ("3\\sqrt{2}", "$4.2426$", "wrong"),
        ("2\\pi", "6.283185307179586", "wrong"),
        ("x^2-1", "$(x-1)(x+1)$", "right"),
        ("x^2-1", "$(x-1)^2$", "wrong"),
        ("2\\sin x\\cos x", "$\\sin(2x)$", "right"),
        ("|x|", "$x$", "wrong"),
        ("7", "$x = 7$", "right"),
        ("\\{1,-4\\}", "$x=-4$ or $x=1$", "unparsed"),
        ("\\{1,-4\\}", "$x=-4, x=1$", "right"),
        ("\\{1,-4\\}", "$x = 1$", "wrong"),
        ("\\{3,-3\\}", "\\pm 3", "right"),
        ("(1,2)", "$(2,1)$", "wrong"),
        ("(1,2)", "(1, 2)", "right"),
        ("[1,2)", "$(1,2]$", "wrong"),
        ("(2,\\infty)", "$x>2$", "right"),
        ("[2,\\infty)", "$x>2$", "wrong"),
        ("(-1,4]", "$-1 < x \\le 4$", "right"),
        ("(-\\infty,0)\\cup(1,\\infty)", "$(1,\\infty) \\cup (-\\infty,0)$", "right"),
        ("x\\le 3", "$3 \\ge x$", "right"),
        ("y=2x+1", "$2x - y + 1 = 0$", "right"),
        ("y=2x+1", "$y = 2x - 1$", "wrong"),
        ("\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}", "$\\begin{bmatrix}1&0\\\\0&1\\end{bmatrix}$", "right"),
        ("\\binom{6}{2}", "15", "right"),
        ("5!", "120", "right"),
        ("\\log_2 8", "3", "right"),
        ("\\ln(e^2)", "2", "right"),
        ("1+i", "$i+1$", "right"),
        ("\\frac{1}{6}", "$0.1\\overline{6}$", "right"),
        ("2\\frac{1}{2}", "$\\frac{5}{2}$", "right"),
        ("12345", "$12{,}345$", "right"),
        ("3\\text{ kg}", "$3\\text{ g}$", "wrong"),
        ("3\\text{ kg}", "$3$", "right"),
        ("3", "$3\\,\\mathrm{kg}$", "right"),
        ("0.25", "$25\\%$", "right"),
        ("\\infty", "$-\\infty$", "wrong"),
        ("\\emptyset", "no solution", "right"),
        ("\\text{Monday}", "Monday", "right"),
        ("1", "$7^{7^{7^{7^{7}}}}$", "wrong"),
        ("1", "$1000000!$", "wrong"),
        ("3", "so we get \\boxed{2}, that is, \\boxed{3}", "right"),
        ("3", "\\boxed{}", "unparsed"),
        ("3", "not $3$", "unparsed"),
        ("3", "I am not sure.", "unparsed"),
        ("3", "I can't answer that.", "refused"),
        ("3", "The value of $x$ is $3$.", "right"),
        ("3", "因此 $x=3$。", "right"),
        ("3", "$\\frac{3}{$", "unparsed"),
    ],
)
def test_formulas(gold: str, answer: str, found: str) -> None:
    assert verdict("math", gold, answer)[0] == found


def test_formulas_with_a_decimal_comma() -> None:
    assert verdict("math", "2.5", "$\\boxed{2{,}5}$", "de")[0] == "right"
    assert verdict("math", "2.5", "$x = 2,5$", "de")[0] == "right"


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "found"),
    [
        ("set", ["4", "5"], "5 and 4", "right"),
        ("set", ["4", "5"], "5", "wrong"),
        ("set", ["4", "5", "6"], "{4,5,6}", "right"),
        ("set", ["red", "blue"], "Colours: Blue, red.", "right"),
        ("set", ["red", "blue"], "1. red\n2. blue", "right"),
        ("list", ["4", "5"], "4, 5", "right"),
        ("list", ["4", "5"], "5, 4", "wrong"),
        ("list", ["a", "b"], "- a\n- b", "right"),
        ("set", ["4", "5"], "I can't help with that.", "refused"),
        ("set", ["4", "5"], "", "unparsed"),
    ],
)
def test_several_items(kind: Any, gold: list[str], answer: str, found: str) -> None:
    assert verdict(kind, gold, answer)[0] == found


def test_several_items_in_other_languages() -> None:
    assert verdict("set", ["0.5", "2"], "0,5 und 2", "de")[0] == "right"
    assert verdict("set", ["4", "5", "6"], "٤، ٥، ٦", "ar")[0] == "right"


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("$5", "-$5", False), ("x", "-x", False), ("5", ".5", False), ("75", ".75", False), ("5", "–5", False),
        ("C", "C#", False), ("50", "50%", False), ("net", ".NET", False), ("[0, 1)", "(0, 1]", False), 
        ("n", "n'", True),
        ("-5", "−5", True), ("0.5", ".5", True), ("-0.5", "−.5", True), ("５", "5", True), ("yes", "“Yes.”", True),
        ("C#", "c#.", True), ("f(x)", "f(x).", True), ("B", "(B)", True), ("five", "- five", True), ("5", "5!", False),
    ],
)  # fmt: skip
def test_signs_that_mean_something_stay(gold: str, answer: str, right: bool) -> None:
    for kind, values in (("exact", {}), ("regex", {"pattern": "(?s)^(.*)$"})):
        assert (verdict(kind, gold, answer, **values)[0] == "right") is right


def test_contains_finds_numbers_whole_and_nothing_in_refusals() -> None:
    for answer in ("15", "-5", "1.5", "5.5", "5,000"):
        assert verdict("contains", "5", answer)[0] == "wrong"
    assert verdict("contains", "5", "It is 5.")[0] == "right"
    assert verdict("contains", "Paris", "I cannot say whether it is Paris.")[0] == "refused"


def test_the_cases_beside_the_checkout(shared: Path) -> None:
    """Every case whose verdict is certain, and of the soft ones all but those that a rule here decides otherwise."""
    path = shared / "reports" / "judging_cases.jsonl"
    if not path.exists():
        pytest.skip("no judging cases beside the checkout")
    other, counts = [], Counter[str]()
    for line in path.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        kind = {"label": "classification", "text": "exact"}.get(case["kind"], case["kind"])
        values: dict[str, Any] = {"labels": tuple(case["labels"])} if kind == "classification" else {}
        row = {"q": "?", "answer": case["gold"], "options": case.get("options")}
        if kind == "option":
            values["fields"] = Fields(choices="options")
        task = Task("t", kind, "{q}", language=case["lang"], **values)
        found = judge_text(task, task.from_rows([row]).rows[0], case["answer"]).verdict
        counts["soft" if case["soft"] else "certain"] += 1
        if found != case["verdict"]:
            other.append((case["id"], case["soft"]))
    assert counts["certain"] > 200
    # "cancel-order" for the label "cancel order": hyphens, underscores and spaces are alike.
    assert other == [("p159", True)]
