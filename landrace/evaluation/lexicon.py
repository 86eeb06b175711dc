"""Words that decide how an answer is read, in the languages that people asked in: denial, contrast, naming, refusal.

A phrase stands in its folded form or any other (see `folding`); " … " (folded: "...") in a phrase is a gap of a few
words. Phrases of scripts that write no spaces are found inside of words as well. Each list says what its phrases do to
a label nearby.
"""

from __future__ import annotations

import re
from functools import cache

from landrace.evaluation.folding import fold, is_unspaced

# `\w` leaves out the vowel signs of Indic scripts.
WORD = r"\w\u0900-\u0963\u0966-\u0dff"
GAP = r"[^.!?\n。！？؟।]{0,48}?"

DENIES_AHEAD = """
not|never|neither|nor|no|non|none|cannot|cant|isnt|isn't|aren't|wasn't|weren't|doesn't|don't|
didn't|won't|wouldn't|can't|couldn't|shouldn't|hasn't|haven't|ain't|dont|without|rather than|instead of|
far from|anything but|other than|opposite of|unlike|hardly|ruled out|rule out
nicht|kein|keine|keinen|keinem|keiner|keines|keineswegs|keinesfalls|nie|niemals|weder|ohne|statt|anstatt|nein
ne|n'|pas|ni|jamais|sans|aucun|aucune|nullement|plutôt que|au lieu de
nunca|jamás|sin|tampoco|en lugar de|en vez de
não|nem|sem|tampouco|em vez de
né|senza|neanche|nemmeno|invece di
nu|nici|fără|niciodată
niet|geen|nooit|zonder|nee
inte|ej|icke|varken|aldrig|ingen|inget|nej|ikke|ikkje|hverken|verken|aldri|uden|uten|ekki
ei|eivät|eikä|ilman|mitte|ega|nem|sem|sose|soha|nincs|nav|nevis|nėra|ez da|ez dira|nuk|mhux
не|ни|нет|никогда|без|вместо|нельзя|ані|ні|нито|није|нису|нити|нисам|ниту|неће
nije|nisu|niti|bez|nisam|neće|nikada|nikad|nikoli|nikakor|není|nejsou|ani|nikdy|nikoliv|nigdy|żaden|zamiast
δεν|δε|μη|μην|ούτε|όχι|χωρίς|ποτέ
ليس|ليست|ليسا|وليس|وليست|لا|ولا|لم|لن|غير|بدون|دون|مش|نه
לא|אינו|אינה|אין|איננו|איננה|בלי|ולא
tidak|bukan|bukanlah|tanpa|belum|jangan|sio|hapana|walang
không|chẳng|chưa|chả|đừng|არ|არა|ոչ
不|非|没|沒|未|勿|不是|ไม่ใช่|ไม่|มิใช่|มิได้|ບໍ່|មិន
"""

DENIES_BEHIND = """
değil|değildir|değildi|degil|olmayan|deyil|deyildir|emas|емес|биш
नहीं|नही|नाही|होइन|छैन|ना|मत|নয়|না|নেই|নহে|ਨਹੀਂ|નથી|નહીં|இல்லை|அல்ல|కాదు|లేదు|ಅಲ್ಲ|ಇಲ್ಲ|അല്ല|ഇല്ല|නොවේ|නැත
نیست|نیستند|نمی باشد|نہیں|չէ|አይደለም
ない|無い|ません|なく|違う|違い|ぬ|아니|아닙|아닌|아님|아녜|않|못|없|မဟုတ်
is wrong|are wrong|is incorrect|is false|is not right|would be wrong|would be incorrect|is ruled out|can be ruled out
ist falsch|wäre falsch|est faux|serait faux|est incorrect|es incorrecto|sería incorrecto|está errado|è sbagliato
неверно|неправильно|је погрешно|je pogrešno|jest błędne|yanlış|yanlıştır|είναι λάθος|是错|是錯|错误的|間違い|틀렸
"""

DENIES_BEFORE_ITS_END = "nicht|niet|inte|ikke|ikkje|ej|not|nie|keineswegs"
"""These deny what stands before them where they end the clause: "Positiv ist das nicht."."""

INTERJECTIONS = """
no|non|nein|nee|nej|nei|não|nu|нет|ні|не|ne|nie|όχι|לא|لا|نه|không|না|ei|nem
"""
"""These deny nothing when a comma follows ("No, it is positive.")."""

DENIES_NOTHING = """
no doubt|without doubt|without a doubt|without any doubt|no question|without question|not only|not just|not merely|
nothing but|none other than|no other than|no wonder|cannot be denied|can't be denied|not hard|not difficult|
no problem|
why not|not surprisingly|no surprise
kein zweifel|ohne zweifel|zweifelsohne|ohne frage|nicht nur|nichts als|keine frage
pas de doute|aucun doute|sans doute|sans aucun doute|nul doute|pas seulement|non seulement
sin duda|sin lugar a dudas|no hay duda|no cabe duda|no solo|no sólo
sem dúvida|não há dúvida|não só|não apenas|senza dubbio|non c'è dubbio|non solo
без сомнения|нет сомнений|вне сомнения|не только|несомненно|без сумње|нема сумње|не само|bez sumnje|nema sumnje|
ne samo
bez wątpienia|nie ma wątpliwości|nie tylko|bez pochyby|nejen|χωρίς αμφιβολία|δεν υπάρχει αμφιβολία|όχι μόνο
geen twijfel|zonder twijfel|niet alleen|utan tvekan|inte bara|uden tvivl|ikke bare|ei epäilystäkään|kétségtelenül|
nem csak
بلا شك|لا شك|بدون شك|ليس فقط|بی شک|بدون شک|ללא ספק|אין ספק|לא רק
कोई संदेह नहीं|निस्संदेह|न केवल|tanpa ragu|tidak hanya|bukan hanya|bukan saja
không nghi ngờ|không còn nghi ngờ|chắc chắn không sai|không chỉ|không những|ไม่ต้องสงสัย|ไม่เพียง|ไม่มีข้อสงสัย
毫无疑问|毫無疑問|无疑|無疑|不用说|不仅|不僅|不但|不过|不過|不错|不錯|无论|無論|不管|差不多|非常|除非|是不是|不同|未来|对不起|對不起|不好意思|不得不|不满|不滿|不足|不便|不断|不斷|不少|不久|不好|不喜欢|
不开心|不高兴|没错|沒錯|没问题
間違いな|間違いあり|違いな|違いあり|だけでな|疑いな|틀림없|의심할 여지|의심의 여지|뿐만 아니라|뿐 아니라
"""

CONTRASTS = """
but|rather|instead|however|though|although|because|since|while|whereas
sondern|aber|vielmehr|jedoch|doch|weil|obwohl|mais|cependant|car|parce que|sino|pero|porque|aunque
mas|porém|senão|ma|bensì|però|perché|ci|dar|maar|utan|men|vaan|mutta|vaid|hanem
а|но|зато|однако|але|проте|већ|али|него|nego|već|ali|ale|lecz|nýbrž|tylko
ama|fakat|aksine|bilakis|αλλά|όμως|بل|لكن|ولكن|انما|وانما|بلکه|اما|ولی|אלא|אבל
बल्कि|लेकिन|परंतु|किंतु|मगर|বরং|কিন্তু|melainkan|tetapi|tapi|mà là|mà|nhưng|แต่|而是|但是|但|却|卻|而
"""

NAMES_AHEAD = """
answer|answers|final answer|label|category|class|classification|intent|sentiment|verdict|choice|option|conclusion|
result|prediction|solution|i choose|i pick|i select|i would choose|i'd choose|go with|opt for|i say|final
antwort|lösung|ergebnis|kategorie|klasse|ich wähle|ich nehme|endgültig|fazit|entscheide mich für
réponse|résultat|catégorie|solution|je choisis|opterais pour|conclusion
respuesta|resultado|categoría|etiqueta|solución|opción|elijo|escojo|conclusión
resposta|resultado|categoria|rótulo|solução|opção|escolho|alternativa|conclusão
risposta|risultato|categoria|etichetta|soluzione|opzione|scelgo|conclusione
răspuns|răspunsul|antwoord|svar|svaret|vastaus|vastus|válasz|atbilde|atsakymas|odpověď|odpoveď|odpowiedź|odgovor|
odgovor je|rešenje|rješenje|zaključak|biram|oznaka|wybieram|wynik|wniosek|výsledek|volím
ответ|итог|вывод|вариант|метка|решение|выбираю|результат|відповідь|висновок|обираю|отговор|одговор|решење|закључак|
бирам
cevap|cevabı|cevabım|yanıt|yanıtım|sonuç|seçenek|şık|etiket|seçiyorum|cavab|javob|жауап
απάντηση|αποτέλεσμα|συμπέρασμα|επιλογή|κατηγορία|επιλέγω|λύση
الجواب|الاجابة|الإجابة|جواب|النتيجة|التصنيف|الخيار|الخلاصة|اختار|پاسخ|جواب|نتیجه|گزینه|תשובה|התשובה|תוצאה|המסקנה|
אפשרות
उत्तर|जवाब|निष्कर्ष|विकल्प|परिणाम|উত্তর|জবাব|বিকল্প|ਜਵਾਬ|જવાબ|பதில்|விடை|సమాధానం|ಉತ್ತರ|ഉത്തരം
jawaban|jawabannya|jawapan|pilihan|kesimpulan|hasil|jibu|sagot
câu trả lời|đáp án|trả lời|kết quả|kết luận|nhãn|lựa chọn|tôi chọn|phương án|คำตอบ|สรุป|ตัวเลือก|ข้อ|ฉันเลือก|ผมเลือก
答案|回答|结论|結論|标签|標籤|类别|類別|选项|選項|选择|選擇|我选|我選|应选|故选|答え|解答|正解|ラベル|選択肢|정답|답변|답은|답|결론|레이블|선택지
"""
"""A label in the rest of the sentence behind one of these (or behind its colon) is named as the answer."""

CONCLUDES = """
so|therefore|thus|hence|in total|altogether|makes|comes to|equals|which gives|leaves
also|insgesamt|zusammen|daher|somit|ergibt|summe|donc|ainsi|au total|en tout|por lo tanto|así que|en total|portanto|
logo|ao todo|
no total|quindi|dunque|in totale|deci|dus|totaal|alltså|totalt|altså|yhteensä|összesen|tehát|celkem|tedy|spolu|teda
итого|всего|значит|следовательно|поэтому|отже|усього|общо|следователно|укупно|дакле|значи|ukupno|dakle|znači|skupaj|
razem|więc|zatem|łącznie|toplam|toplamda|yani|dolayısıyla|άρα|συνολικά|σύνολο|επομένως
اذن|المجموع|لذلك|اذا|بنابراین|مجموع|סך הכל|לכן|इसलिए|अतः|कुल|মোট|সুতরাং|jadi|total|jumlah|vậy|tổng cộng|tổng|do đó
ดังนั้น|รวม|所以|因此|因而|总共|一共|共计|合计|共|よって|したがって|ゆえに|合計|따라서|그러므로|총|모두|합계
"""
"""A number in the rest of the sentence behind one of these is a result."""

EQUALS = """
is|are|was|were|be|equals|makes|ist|sind|beträgt|gleich|est|sont|vaut|es|son|é|são|è|sono|este|sunt|is gelijk aan|är|
er|on|
равно|равен|равна|равняется|это|є|дорівнює|је|износи|je|iznosi|to|jest|wynosi|eder|eşittir|είναι|ισούται με
هو|هي|يساوي|تساوي|است|הוא|היא|है|হল|হলো|adalah|là|bằng|คือ|เท่ากับ|是|为|為|等于|等於|は|が|은|는|이|=
"""
"""A number just behind one of these is what the sentence states."""

NAMES_BEHIND = """
is correct|is right|is the answer|is the correct|is the right|is the best|is my answer|is my choice|is the total|
is the result|is the sum|is the number|
ist das ergebnis|ist die summe|est le total|est le résultat|es el total|es el resultado|é o total|è il totale|
является ответом|
ist richtig|ist korrekt|ist die richtige|ist die antwort|stimmt|est correct|est correcte|est juste|est la bonne
es correcta|es correcto|es la respuesta|es la correcta|está correta|é a resposta|é a correta|está correto|è corretta|
è corretto
верно|правильно|правилен|је тачно|је тачан|je tačno|je tačan|je točno|jest poprawna|jest poprawne|doğru|doğrudur
είναι σωστό|είναι σωστή|είναι η σωστή|صحيح|هو الصحيح|هي الصحيحة|सही है|là đúng|ถูกต้อง|正确|正確|
が正解|が正しい|맞습니다|정답
"""
"""A one-letter label or a number just before one of these is named as the answer: "B is correct."."""

REFUSES = """
i can't … help|i cannot … help|i can not … help|i can't … assist|i cannot … assist|i can't answer|i cannot answer|
i can't provide|i cannot provide|i can't say|i cannot say|i can't determine|i cannot determine|i can't tell|
i cannot tell|
i can't do that|i cannot do that|i can't comply|i cannot comply|i can't classify|i cannot classify|i can't discuss|
i cannot discuss|i can't give|i cannot give|i can't share|i cannot share|i can't fulfil|i cannot fulfil|
i can't support|
i am unable|i'm unable|i am not able|i'm not able|i won't|i will not|i am not allowed|i'm not allowed|i refuse|
i must decline|i have to decline|i need to decline|i decline|as an ai|as a language model|as a large language model|
i don't know|i do not know|i dont know|no idea|unable to answer|unable to help|unable to assist|can't help with|
cannot help with|not something i can
kann ich … nicht|kann … nicht helfen|kann ich nicht|ich kann … nicht|kann … nicht beantworten|weiß ich nicht|
weiß … nicht|
darf ich nicht|als ki|als sprachmodell|keine ahnung|nicht in der lage
je ne peux pas|je ne peux … répondre|je ne suis pas en mesure|je ne suis pas capable|je ne sais pas|je refuse|
en tant qu'ia|
en tant qu'intelligence|aucune idée|impossible de répondre|je ne saurais|peux pas vous aider|peux pas t'aider
no puedo|no me es posible|no sé|no lo sé|no soy capaz|me niego|como ia|como modelo|no tengo idea|
no estoy en condiciones
não posso|não consigo|não sei|não sou capaz|recuso|como uma ia|como ia|como modelo|não faço ideia
non posso|non sono in grado|non so|non lo so|mi rifiuto|come ia|come modello|come intelligenza|non riesco
nu pot|nu știu|nu sunt în măsură|ik kan … niet|kan ik niet|weet ik niet|weet het niet|jag kan inte|kan jag inte|
vet inte|
jeg kan ikke|kan jeg ikke|ved det ikke|ved ikke|vet ikke|en voi|en tiedä|en pysty|ma ei saa|ma ei tea|nem tudok|
nem tudom|
nevaru|nezinu|negaliu|nežinau|no puc|ezin dut|ez dakit
не могу|не можу|не мога|не знаю|не знам|не смогу|не в состоянии|отказываюсь|как ии|як ші|не можам|не бих могао|не умем
ne mogu|ne znam|ne umem|nisam u mogućnosti|kao ai|odbijam|ne morem|ne vem|nemohu|nevím|nemůžu|nemôžem|neviem|
nie mogę|nie wiem|nie potrafię|nie jestem w stanie|odmawiam|jako ai|jako model
yardımcı olamam|yardımcı olamıyorum|yardım edemem|cevaplayamam|cevap veremem|yanıtlayamam|yanıt veremem|bilmiyorum|
söyleyemem|yapamam|kömək edə bilmərəm|bilmirəm|білмеймін|bilmayman
δεν μπορώ|δεν γνωρίζω|δεν ξέρω|αδυνατώ|αρνούμαι|δεν είμαι σε θέση
لا استطيع|لا أستطيع|لا يمكنني|لا اقدر|لا أعرف|لا أعلم|لا ادري|لست قادرا|اعتذر عن|لا يسعني|نمی توانم|نمیتوانم|نمی دانم|
نمیدانم
لا … أستطيع|איני יכול|אינני יכול|לא יכול|לא יכולה|לא יודע|לא יודעת|איני יודע
नहीं कर सकता|नहीं कर सकती|नहीं दे सकता|नहीं दे सकती|मदद नहीं|नहीं बता सकता|नहीं बता सकती|असमर्थ|नहीं जानता|नहीं जानती|
नहीं पता|पता नहीं
পারব না|পারছি না|পারি না|জানি না|தெரியாது|முடியாது|తెలియదు|నేను … చేయలేను|نہیں کر سکتا|نہیں کر سکتی|معلوم نہیں
saya tidak bisa|saya tidak dapat|tidak bisa membantu|tidak dapat membantu|tidak bisa menjawab|tidak dapat menjawab|
tidak tahu|saya tidak boleh|siwezi|sijui|hindi ko alam|hindi ako maaaring
không thể … giúp|không thể … trả lời|không thể … hỗ trợ|không thể … cung cấp|tôi không thể|không biết|
tôi không được phép
ช่วย … ไม่ได้|ไม่สามารถ … ช่วย|ไม่สามารถ … ตอบ|ไม่สามารถ … ให้|ตอบ … ไม่ได้|ไม่ทราบ|ไม่รู้
无法回答|无法提供|无法帮助|无法协助|无法判断|无法确定|无法处理|无法完成|无法满足|我无法|不能回答|不能提供|不能帮|我不能|我不知道|不知道|不清楚|
帮不了|不便回答|拒绝回答|作为一个ai|作为ai|作为人工智能|無法回答|無法提供|無法協助|無法幫|我無法|不便回答|恕我不能|恕难
お答えできません|答えられません|お答えでき|回答できません|お手伝いできません|お役に立てません|対応できません|できかねます|お応えできません|
分かりません|わかりません|知りません|できません|判断できません|ai として|aiとして
도와드릴 수 없|도와 드릴 수 없|도울 수 없|답변할 수 없|답변드릴 수 없|답변해 드릴 수 없|
대답할 수 없|답할 수 없|제공할 수 없|말씀드릴 수 없|알 수 없|모르겠|모릅니다|
판단할 수 없|할 수 없습니다|ai로서|어렵습니다|도움을 드릴 수 없
"""
"""The sentence that holds one of these gives no answer; an answer with nothing else is a refusal."""


def phrases(listed: str) -> list[str]:
    """The phrases of one of the lists above, folded, the longest first."""
    found = {fold(phrase) for phrase in re.split(r"[|\n]", listed) if phrase.strip()}
    return sorted(found, key=lambda phrase: (-len(phrase), phrase))


@cache
def pattern(listed: str) -> re.Pattern[str]:
    """Finds a phrase of one of the lists above in folded text, as words where the script has words."""
    return re.compile("|".join(_phrase_pattern(phrase) for phrase in phrases(listed)))


def _phrase_pattern(phrase: str) -> str:
    body = re.escape(phrase).replace(r"\ \.\.\.\ ", GAP)
    before = "" if is_unspaced(phrase[0]) else f"(?<![{WORD}])"
    after = "" if is_unspaced(phrase[-1]) or phrase[-1] == "'" else f"(?![{WORD}])"
    return f"{before}{body}{after}"
