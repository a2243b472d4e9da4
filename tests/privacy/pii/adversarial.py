"""Identifiers as they hide in real tables: (name, text, what must be masked), written for this suite.

Kinds that must be found without exception come first; each of the others may be missed now and then.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

ZW, SHY, RLM, NBSP, WJ = "\u200b", "\u00ad", "\u200f", "\u00a0", "\u2060"
FULLWIDTH = str.maketrans({chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)})
ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
DEVANAGARI = str.maketrans("0123456789", "०१२३४५६७८९")
MATHEMATICAL = str.maketrans("0123456789", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗")
CYRILLIC = str.maketrans("aeopcx", "аеорсх")

MAIL, CARD, SSN = "maria.gonzalez@mailbox.org", "4012 8888 8888 1881", "536-22-8741"
IBAN = "DE89 3704 0044 0532 0130 00"
Case = tuple[str, str, str]


def dressed(kind: str, secret: str) -> list[Case]:
    """The disguises that any identifier can wear."""
    digits = [
        (n, secret.translate(t))
        for n, t in (("arabic", ARABIC), ("devanagari", DEVANAGARI), ("mathematical", MATHEMATICAL))
    ]
    clothes = [
        ("plain", secret),
        ("zero width", ZW.join(secret)),
        ("word joiner", secret[:6] + WJ + secret[6:]),
        ("soft hyphens", secret[:5] + SHY + secret[5:9] + SHY + secret[9:]),
        ("right-to-left mark", RLM + secret + RLM),
        ("full width", secret.translate(FULLWIDTH)),
        ("html decimal", "".join(f"&#{ord(c)};" for c in secret)),
        ("html hex", "".join(f"&#x{ord(c):x};" for c in secret)),
        ("percent", quote(secret, safe="")),
        ("percent twice", quote(quote(secret, safe=""), safe="")),
        ("json escapes", secret.replace("-", "\\u002d").replace("@", "\\u0040").replace(" ", "\\u0020")),
        ("base64", base64.b64encode(secret.encode()).decode()),
        ("tabs", secret.replace(" ", "\t")),
        ("no-break spaces", secret.replace(" ", NBSP)),
        ("dashes", secret.replace("-", "–")),
        ("upper case", secret.upper()),
        ("quoted", f"«{secret}»"),
        ("json", f'{{"id": "{secret}"}}'),
        ("xml", f"<v>{secret}</v>"),
        *(digits if kind != "e-mail" else []),
    ]
    return [(f"{kind}, {name}", f"Note: {form}, see file.", form) for name, form in clothes]


SURE: list[Case] = [
    *dressed("e-mail", MAIL),
    *dressed("card", CARD),
    *dressed("iban", IBAN),
    *dressed("ssn", SSN),
    ("e-mail, html at", "write maria&#64;mailbox.org now", "maria&#64;mailbox.org"),
    ("e-mail, at in brackets", "maria.gonzalez (at) mailbox (dot) org", "maria.gonzalez (at) mailbox (dot) org"),
    ("e-mail, square brackets", "maria[at]mailbox[dot]org", "maria[at]mailbox[dot]org"),
    ("e-mail, spelt", "reach me: maria at mailbox dot org", "maria at mailbox dot org"),
    ("e-mail, French", "maria arobase mailbox point fr ou maria(arobase)mailbox.fr", "maria(arobase)mailbox.fr"),
    ("e-mail, plus", "jo+spam@mailbox.co.uk", "jo+spam@mailbox.co.uk"),
    ("e-mail, umlaut domain", "info@müller-söhne.de", "info@müller-söhne.de"),
    ("e-mail, umlaut name", "jürgen.groß@postfach.de", "jürgen.groß@postfach.de"),
    ("e-mail, mailto", '<a href="mailto:maria@mailbox.org">x</a>', "maria@mailbox.org"),
    ("e-mail, Cyrillic letters", MAIL.translate(CYRILLIC) + " wrote", MAIL.translate(CYRILLIC)),
    ("e-mail, angle brackets", "Maria Gonzalez <maria.gonzalez@mailbox.org>", "maria.gonzalez@mailbox.org"),
    ("e-mail, localhost", "cron mail for root@localhost today", "root@localhost"),
    ("e-mail, after text", "Kontakt:maria.gonzalez@mailbox.org;", "maria.gonzalez@mailbox.org"),
    ("e-mail, subdomain", "m.g@mail.cs.uni-bonn.de", "m.g@mail.cs.uni-bonn.de"),
    ("card, no spaces", "paid with 4012888888881881", "4012888888881881"),
    ("card, hyphens", "4012-8888-8888-1881", "4012-8888-8888-1881"),
    ("card, dots", "4012.8888.8888.1881", "4012.8888.8888.1881"),
    ("card, amex", "3782 822463 10005 exp 04/29", "3782 822463 10005"),
    ("card, mastercard 2", "2223003122003222", "2223003122003222"),
    ("card, 13 digits", "old visa 4222222222222", "4222222222222"),
    ("card, 19 digits", "card 6304000000000000000", "6304000000000000000"),
    ("card, diners", "30569309025904", "30569309025904"),
    ("card, jcb", "3530111333300000", "3530111333300000"),
    ("card, spaced out", "4 0 1 2 8 8 8 8 8 8 8 8 1 8 8 1", "4 0 1 2 8 8 8 8 8 8 8 8 1 8 8 1"),
    ("card, line break", "4012 8888\n8888 1881", "4012 8888\n8888 1881"),
    ("iban, no spaces", "DE89370400440532013000", "DE89370400440532013000"),
    ("iban, French", "FR14 2004 1010 0505 0001 3M02 606", "FR14 2004 1010 0505 0001 3M02 606"),
    ("iban, British", "GB82WEST12345698765432", "GB82WEST12345698765432"),
    ("iban, lower case", "de89370400440532013000", "de89370400440532013000"),
    ("iban, hyphens", "DE89-3704-0044-0532-0130-00", "DE89-3704-0044-0532-0130-00"),
    ("iban, Norwegian", "NO93 8601 1117 947", "NO93 8601 1117 947"),
    ("iban, Maltese", "MT84MALT011000012345MTLCAST001S", "MT84MALT011000012345MTLCAST001S"),
    ("iban, glued to a word", "IBAN:DE89370400440532013000,BIC", "DE89370400440532013000"),
    ("ssn, spaces", "536 22 8741", "536 22 8741"),
    ("ssn, dots", "536.22.8741", "536.22.8741"),
    ("ssn, bare with context", "my ssn is 536228741", "536228741"),
    ("ssn, spaced dashes", "SSN 536 - 22 - 8741", "536 - 22 - 8741"),
    ("ssn, social security number", "social security number: 536228741", "536228741"),
    ("ssn, en dashes", "536–22–8741", "536–22–8741"),
]  # fmt: skip

LIKELY: list[Case] = [
    ("phone, US", "call (212) 736-5000", "(212) 736-5000"),
    ("phone, dots", "212.736.5000 after six", "212.736.5000"),
    ("phone, international", "+1 212 736 5000", "+1 212 736 5000"),
    ("phone, French", "Appelez le 06 12 34 56 78 svp", "06 12 34 56 78"),
    ("phone, German", "Tel. 030 / 901820", "030 / 901820"),
    ("phone, British", "ring 020 7946 0018", "020 7946 0018"),
    ("phone, 0033", "0033 6 12 34 56 78", "0033 6 12 34 56 78"),
    ("phone, extension", "212-736-5000 ext. 12", "212-736-5000"),
    ("phone, bare with context", "mobile: 2127365000", "2127365000"),
    ("phone, full width", "call " + "(212) 736-5000".translate(FULLWIDTH), "(212) 736-5000".translate(FULLWIDTH)),
    ("phone, tel link", "tel:+12127365000", "+12127365000"),
    ("nir", "NIR 1 85 05 78 006 084 91", "1 85 05 78 006 084 91"),
    ("nir, bare", "185057800608491", "185057800608491"),
    ("nir, Corsica", "n° 2 69 05 2A 588 157 17", "2 69 05 2A 588 157 17"),
    ("nir, with clé", "1 85 05 78 006 084 clé 91", "1 85 05 78 006 084 clé 91"),
    ("passport", "passport number 488839667", "488839667"),
    ("German passport", "Reisepass C01X00T47", "C01X00T47"),
    ("tax id, German", "Steuer-ID 65929970489", "65929970489"),
    ("nino", "NI number AB 12 34 56 C", "AB 12 34 56 C"),
    ("licence", "driver's license D1234567", "D1234567"),
    ("ipv4", "from 8.8.4.4 at night", "8.8.4.4"),
    ("ipv4 with port", "http://8.8.4.4:8080/x", "8.8.4.4"),
    ("ipv6", "addr 2a00:1450:4001:82b::200e up", "2a00:1450:4001:82b::200e"),
    ("mac", "00:1B:44:11:3A:B7", "00:1B:44:11:3A:B7"),
    ("mac, cisco", "001b.4411.3ab7", "001b.4411.3ab7"),
    ("coordinates", "at 48.858370, 2.294481 now", "48.858370, 2.294481"),
    ("coordinates, degrees", "48°51'30\"N 2°17'40\"E", "48°51'30\"N 2°17'40\"E"),
    ("bitcoin", "to bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq", "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"),
    ("ethereum", "0x52908400098527886E0F7030069857D2E4169EE7", "0x52908400098527886E0F7030069857D2E4169EE7"),
    ("url with a user", "https://forum.site.org/u/maria.gonzalez?x=1", "https://forum.site.org/u/maria.gonzalez?x=1"),
    ("handle", "follow @maria_gonzalez88 there", "@maria_gonzalez88"),
    ("hex-wrapped e-mail", MAIL.encode().hex(), MAIL.encode().hex()),
    ("name", "I spoke to Maria Gonzalez yesterday", "Maria Gonzalez"),
    ("name, lower case", "i spoke to maria gonzalez yesterday", "maria gonzalez"),
    ("name, capitals", "SPOKE TO MARIA GONZALEZ", "MARIA GONZALEZ"),
    ("name, initial", "signed by Maria T. Gonzalez", "Maria T. Gonzalez"),
    ("name, comma", "patient: Gonzalez, Maria", "Gonzalez, Maria"),
    ("name, accents", "avec Amélie Lefèvre", "Amélie Lefèvre"),
    ("name, decomposed accents", "avec Ame\u0301lie Lefe\u0300vre", "Ame\u0301lie Lefe\u0300vre"),
    ("name, html", "avec Am&eacute;lie Lef&egrave;vre", "Am&eacute;lie Lef&egrave;vre"),
    ("name, zero width", f"met Ma{ZW}ria Gon{ZW}zalez", f"Ma{ZW}ria Gon{ZW}zalez"),
    ("name, Cyrillic letters", "met M" + "aria".translate(CYRILLIC) + " Gonz" + "ale".translate(CYRILLIC) + "z", "Gonz" + "ale".translate(CYRILLIC) + "z"),
    ("name, French sentence", "je m'appelle Amélie et je suis malade", "Amélie"),
    ("name, German sentence", "Mein Name ist Jürgen Schröder.", "Jürgen Schröder"),
    ("name, title", "bei Frau Dr. Schäuble in Behandlung", "Schäuble"),
    ("name, Spanish", "hablé con José Ramírez Ortega", "José Ramírez Ortega"),
    ("name, hyphens", "Jean-Pierre Dupont-Moretti est venu", "Jean-Pierre Dupont-Moretti"),
    ("name, apostrophe", "Sinead O’Connor called", "Sinead O’Connor"),
    ("address, US", "lives at 742 Evergreen Terrace, Springfield", "742 Evergreen Terrace"),
    ("address, French", "12 bis rue de la République, Lyon", "12 bis rue de la République"),
    ("address, German", "wohnt Hauptstraße 17", "Hauptstraße 17"),
    ("address, PO box", "send to P.O. Box 1234", "P.O. Box 1234"),
    ("two languages", "Mme Lefèvre said: call me at 06 12 34 56 78", "06 12 34 56 78"),
    ("right to left", "\u202b maria.gonzalez@mailbox.org \u202c", "maria.gonzalez@mailbox.org"),
    ("NUL", "maria.gonzalez\x00 maria@mailbox.org", "maria@mailbox.org"),
    ("many lines", "line one\n\nline two\nMaria Gonzalez\nline four", "Maria Gonzalez"),
    ("nested JSON", '{"a": {"b": [{"n": "Maria Gonzalez"}]}}', "Maria Gonzalez"),
    ("CSV in a cell", "17;Maria Gonzalez;F;212-736-5000", "Maria Gonzalez"),
    ("log line", "user=maria.gonzalez@mailbox.org ip=8.8.4.4 ok", "8.8.4.4"),
    ("NaN-like", "nan maria.gonzalez@mailbox.org null", "maria.gonzalez@mailbox.org"),
    ("placeholder beside", "<PERSON> alias Maria Gonzalez", "Maria Gonzalez"),
    ("far inside", "x " * 2600 + "Maria Gonzalez" + " y" * 300, "Maria Gonzalez"),
    ("at a piece's edge", "word " * 998 + "maria.gonzalez@mailbox.org and so on " * 3, "maria.gonzalez@mailbox.org"),
]  # fmt: skip

# Cells of whole columns: (header, cells, the entity, or None where the column names nobody).
COLUMNS: list[tuple[str, list[str], str | None]] = [
    ("ssn", [str(536228741 + 97 * i) for i in range(40)], "US_SSN"),
    ("social_security_number", [f"{536228741 + 97 * i}" for i in range(40)], "US_SSN"),
    ("phone", [str(2127365000 + i) for i in range(40)], "PHONE_NUMBER"),
    ("mobile", [f"{612345678 + 7 * i}" for i in range(40)], "PHONE_NUMBER"),
    ("nir", ["185057800608491"] * 20 + ["1 85 05 78 006 084 91"] * 20, "FR_NIR"),
    ("prenom", ["Amélie", "Jean", "Luc", "Zoé", "Inès"] * 8, "PERSON"),
    ("Nachname", ["Schröder", "Meyer", "Groß", "Schäuble"] * 10, "PERSON"),
    ("amount", [f"{x * 13.37:.2f}" for x in range(40)], None),
    ("order_id", [str(7_000_000_000 + 37 * i) for i in range(40)], None),
    ("date of birth", [f"19{50 + i}-0{i % 9 + 1}-1{i % 10}" for i in range(40)], None),
    ("zip", [f"{10001 + 77 * i}" for i in range(40)], None),
    ("icd10", [f"{'ABCDEF'[i % 6]}{i + 10}.{i % 10}" for i in range(40)], None),
]
