"""Personal data out of customers' texts: each value or person becomes one placeholder, however it is spelled."""

import re
import unicodedata
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache, lru_cache

from elm_helpers.paths import TEMPLATES

import phonenumbers
import yaml
from stdnum import iban, luhn

LETTERS = str.maketrans({"ß": "ss", "ẞ": "SS", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ı": "i", "æ": "ae", "’": "'"})
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
FORMS = TEMPLATES / "personal_data.yaml"
REGIONS = "GB DE FR IT NL AU IN AT CH BE SE IE NZ ZA JP BR"  # whose numbers begin with 0 at home
CARDS = {14: ("30", "36", "38"), 15: ("34", "37"), 16: tuple("23456"), 19: tuple("46")}  # digits -> how they begin
SHORT = {"street": "st", "road": "rd", "avenue": "ave", "boulevard": "blvd", "lane": "ln", "drive": "dr", "court": "ct"}
NAMED = ("named", "signed", "greeted")
GAP = re.compile(r"[\s,.'_-]{1,4}")
WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Redactor:
    """Whom it knows, and the numbers that it has given; the values themselves stay in memory and are never written.

    Attributes:
        people: Spelling as folded words -> the person, a folded full name.
        firsts: Folded first name -> the people who bear it.
        lasts: Folded last name -> the people who bear it.
        alone: First names that count without an introduction: those of the people in a conversation.
        seen: Kind -> {value or person: number}.
    """

    people: MutableMapping[tuple[str, ...], str]
    firsts: MutableMapping[str, frozenset[str]]
    lasts: MutableMapping[str, frozenset[str]]
    alone: frozenset[str]
    seen: dict[str, dict[str, int]]


def build_redactor(known_names: Iterable[str] = ()) -> Redactor:
    """Return a redactor that knows these people by name; use one for a whole run, so that placeholders agree.

    Args:
        known_names: Full names, such as those of the shop's customers; their first names count where introduced.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    return add_people(Redactor({}, {}, {}, frozenset(), {}), known_names, alone=False)


def add_people(redactor: Redactor, names: Iterable[str], alone: bool = True) -> Redactor:
    """Return a redactor that knows more people and shares the numbers of the first, such as for one conversation.

    Args:
        redactor: Stays as it is.
        names: Full names or first names.
        alone: Their first names count wherever they stand, not only after "this is".

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    names, people, firsts, lasts = list(names), {}, {}, {}
    for name in sorted(filter(str.strip, names), key=lambda name: -len(_read_name(name))):
        whole = _read_name(name)
        if len(whole) == 1 and whole[0] in ChainMap(firsts, redactor.firsts):
            continue  # a first name of somebody who is known by both
        known = ChainMap(people, redactor.people)
        key = known.get(whole) or known.get((whole[0], whole[-1])) or " ".join(whole)
        for words in (_read_name(name), _read_name(name.lower().translate(UMLAUTS))):
            first, last = words[0], words[-1]
            forms = [words, (last, *words[:-1]), (*words[1:], first), (first, last), (last, first), ("".join(words),)]
            forms += [(first[:1], last), (first, last[:1]), (last, first[:1])]
            people |= {form: redactor.people.get(form, key) for form in forms if len(words) > 1}
            for bearers, word in ((firsts, first), (lasts, last)):
                bearers[word] = bearers.get(word, frozenset()) | {key}
    alone = redactor.alone | frozenset(_read_name(name)[0] for name in names if alone)
    known = ChainMap(people, redactor.people)
    given, family = ChainMap(firsts, redactor.firsts), ChainMap(lasts, redactor.lasts)
    return Redactor(known, given, family, alone, redactor.seen)


def redact_text(redactor: Redactor, text: str) -> str:
    """Return the text with e-mails, IBANs, cards, phones, addresses and people as `[EMAIL_1]`, `[PERSON_2]` and so on.

    Spellings don't matter: case, accents, full-width and zero-width characters, "(at)", spaces and dashes. Order
    numbers, prices, sizes, dates and product names stay.

    Args:
        redactor: Gives the same value the same placeholder in all texts that it sees.
        text: Any string; the time is linear in its length.

    Example:
        >>> redactor = build_redactor(["Jane Miller"])
        >>> redact_text(redactor, "I'm jane, order #1001. Call 212-555-0123 or +1 (212) 555 0123.")
        "I'm [PERSON_1], order #1001. Call [PHONE_1] or [PHONE_1]."

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    plain, places = _flatten(text)
    found: list[tuple[int, int, str]] = []
    for kind, find in FINDERS.items():
        numbers, hidden = redactor.seen.setdefault(kind, {}), list(plain)
        for start, end, key in find(redactor, plain):
            if "\0" not in hidden[start:end]:  # nothing in it was taken before
                found.append((start, end, f"[{kind}_{numbers.setdefault(key, len(numbers) + 1)}]"))
                hidden[start:end] = "\0" * (end - start)
        plain = "".join(hidden)
    pieces, done = [], 0
    for start, end, placeholder in sorted(found):
        pieces += [text[done : places[start]], placeholder]
        done = places[end]
    return "".join([*pieces, text[done:]])


def list_people(redactor: Redactor, text: str) -> list[str]:
    """Return who is in a text: known people by their whole names, and names that people give, sign or are greeted with.

    Example:
        >>> list_people(build_redactor(["Jane Miller"]), "jane miller here. My name is Tom Hale, too.")
        ['jane miller', 'Tom Hale']

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    plain = _flatten(text)[0]
    given = [match["name"] for form in NAMED for match in _compile(form).finditer(plain)]
    return [person for *_, person in _find_known(redactor, plain)] + given


@cache
def _read_forms() -> dict[str, str]:
    """Return the regular expressions of the file, each with the entries that it names put in."""
    forms: dict[str, str] = {}
    for name, value in yaml.safe_load(FORMS.read_text(encoding="utf-8")).items():
        text = f"(?:{'|'.join(value)})" if isinstance(value, list) else value
        forms[name] = re.sub(r"<<(\w+)>>", lambda match: forms[match[1]], text)
    return forms


@cache
def _compile(name: str) -> re.Pattern:
    return re.compile(_read_forms()[name], re.IGNORECASE)


@lru_cache(maxsize=4096)
def _fold(letter: str) -> str:
    """Return a character without accents, width and script of its digits; nothing for one that nobody sees."""
    kept = []
    for part in unicodedata.normalize("NFKD", letter.translate(LETTERS)):
        kind = unicodedata.category(part)
        if kind == "Nd":
            kept.append(str(unicodedata.digit(part)))
        elif kind not in ("Mn", "Me", "Cf", "Cc") or part in "\n\t\r":
            kept.append("-" if kind == "Pd" else part)
    return "".join(kept)


def _flatten(text: str) -> tuple[str, list[int]]:
    """Return the text as it is searched, and for each character of it, and its end, the place in the original."""
    folded = [_fold(letter) for letter in text]
    places = [place for place, piece in enumerate(folded) for _ in piece]
    return "".join(folded), [*places, len(text)]


def _find_emails(redactor: Redactor, plain: str) -> Iterator[tuple[int, int, str]]:
    for match in _compile("email").finditer(plain):
        local, domain = (part for part in match.groups() if part)
        yield *match.span(), "@".join(".".join(_compile("dot").split(part.lower())) for part in (local, domain))


def _find_ibans(redactor: Redactor, plain: str) -> Iterator[tuple[int, int, str]]:
    done = 0
    for match in _compile("iban").finditer(plain):
        ends = [word.end() for word in WORD.finditer(match[1])] if match.start() >= done else ()
        for end in reversed(ends):
            number = "".join(WORD.findall(match[1][:end].upper()))
            if 15 <= len(number) <= 34 and iban.is_valid(number, check_country=False):
                done = match.start() + end
                yield match.start(), done, number
                break


def _find_digits(plain: str, read: Callable[[str, str, str], str | None]) -> Iterator[tuple[int, int, str]]:
    """Yield what `read` takes among the spans of 7 to 19 digits that begin and end with a group, the longest first."""
    hidden, done = _compile("date_or_price").sub(lambda match: "x" * len(match[0]), plain), 0
    for run in _compile("digits").finditer(hidden):
        groups = [group.span() for group in re.compile(r"\d+").finditer(hidden, *run.span())]
        for at, (first, _) in enumerate(groups):
            before, digits, spans = plain[max(first - 40, 0) : first], "", []
            lead = re.findall(r"(?:\+\s?)?\(?$", before)[0]
            for start, end in groups[at : at + 19] if first >= done else ():
                digits += hidden[start:end]
                closed = "(" not in lead or ")" in hidden[first:end]
                spans += [(first - len(lead) * closed, end, digits)] if 7 <= len(digits) <= 19 else []
            for start, end, digits in reversed(spans):
                if key := read(plain[start:end], digits, before):
                    done = end
                    yield start, end, key
                    break


def _read_card(text: str, digits: str, before: str) -> str | None:
    return digits if digits.startswith(CARDS.get(len(digits), "x")) and luhn.is_valid(digits) else None


def _read_phone(text: str, digits: str, before: str) -> str | None:
    """Return the national number where the text is a phone number by its form or by what stands before it."""
    named, other = _read_context(before)
    first = digits.startswith("00") and len(digits) > 10 and not re.search(r"\d\W*$", before)
    if text.startswith("+") or (first and not other):
        try:
            number = phonenumbers.parse(text if text.startswith("+") else f"+{digits[2:]}")
        except phonenumbers.NumberParseException:
            return None
        return str(number.national_number) if phonenumbers.is_possible_number(number) else None
    text = digits if re.fullmatch(r"\d(?:\W\d)+", text) else text
    looks = _compile("grouped_phone").fullmatch(text) or (re.match(r"\(?0[1-9]", text) and 9 <= len(digits) <= 12)
    sure = _compile("north_american_phone").fullmatch(text) or (named and len(digits) <= 15)
    if not other and (sure or (looks and _is_valid(digits))):
        return (digits.removeprefix("1") if len(digits) == 11 else digits).lstrip("0") or digits
    return None


@lru_cache(maxsize=1)
def _read_context(before: str) -> tuple[bool, bool]:
    """Return whether the words before some digits announce a phone, and whether they announce something else."""
    named, other = _compile("before_phone").search(before), _compile("before_other_number").search(before)
    return bool(named), bool(other and not (named and named.start() > other.start()))


def _is_valid(digits: str) -> bool:
    regions = REGIONS.split() if digits[0] == "0" else ("US", "IN", "ES", "PL", "BR")
    return any(phonenumbers.is_valid_number(phonenumbers.parse(digits, region)) for region in regions)


def _find_addresses(redactor: Redactor, plain: str) -> Iterator[tuple[int, int, str]]:
    for match in _compile("address").finditer(plain):
        words = WORD.findall((match["street"] or match[0]).lower())
        key = "".join(SHORT.get(word, word) for word in words).replace("strasse", "str")
        yield *match.span(), key


def _find_known(redactor: Redactor, plain: str) -> Iterator[tuple[int, int, str]]:
    """Yield the people who are known, by their whole names in any order."""
    words, at = [(match.start(), match.end(), match[0].lower()) for match in WORD.finditer(plain)], 0
    while at < len(words):
        spelled = {n: _spell(plain, words[at : at + n]) for n in range(min(6, len(words) - at), 0, -1)}
        size = next((n for n, name in spelled.items() if name in redactor.people), 0)
        if size:
            yield words[at][0], words[at + size - 1][1], redactor.people[spelled[size]]
        at += size or 1


def _find_people(redactor: Redactor, plain: str) -> Iterator[tuple[int, int, str]]:
    """Yield known people, their first names where introduced, and names that somebody gives, signs or greets with."""
    yield from _find_known(redactor, plain)
    for word in WORD.finditer(plain):
        first = (word[0].lower(),)
        alone = first[0] in redactor.alone and word[0][0].isupper()
        before = plain[max(word.start() - 24, 0) : word.start()] if first[0] in redactor.firsts else ""
        if alone or _compile("introduced").search(before):
            yield *word.span(), _choose_person(redactor, first, redactor.firsts)
    for form in ("titled", *NAMED):
        known = redactor.lasts if form == "titled" else redactor.firsts
        for match in _compile(form).finditer(plain):
            yield *match.span("name"), _choose_person(redactor, _read_name(match["name"]), known)


def _spell(plain: str, words: list[tuple[int, int, str]]) -> tuple[str, ...] | None:
    """Return the words where they can be one name: a gap of a comma or so, and a dot behind an initial."""
    gaps = all(GAP.fullmatch(plain, one[1], two[0]) for one, two in zip(words, words[1:], strict=False))
    initials = all(end - start > 1 or plain[end : end + 1] in (".", "'") for start, end, _ in words)
    spelled = tuple(word for _, _, word in words) if gaps and initials else None
    return spelled[::2] if spelled and len(spelled) == 3 and len(spelled[1]) == 1 else spelled  # Jane A. Miller


def _choose_person(redactor: Redactor, words: tuple[str, ...], known: Mapping) -> str:
    """Return the one known person whom a whole name, or a first or last name alone, can mean; else the name itself."""
    people = known.get(words[0], ()) if len(words) == 1 else ()
    return redactor.people.get(words) or (next(iter(people)) if len(people) == 1 else " ".join(words))


def _read_name(name: str) -> tuple[str, ...]:
    """Return the folded words of a name, the first name first: "Miller, Jane" and "Jane Miller" are the same."""
    words = tuple(WORD.findall(_flatten(name)[0].lower())) or ("",)
    return words[1:] + words[:1] if "," in name else words


FINDERS = {
    "EMAIL": _find_emails,
    "IBAN": _find_ibans,
    "CARD": lambda redactor, plain: _find_digits(plain, _read_card),
    "PHONE": lambda redactor, plain: _find_digits(plain, _read_phone),
    "ADDRESS": _find_addresses,
    "PERSON": _find_people,
}
