"""Sheets of facts and the descriptions written from them: what is covered, and what was made up."""

import re
from collections.abc import Iterable

from elm_helpers.metrics import NUMBER

FACT = re.compile(r"(?:^|\n|; )(?:[-*•] )?([^\W\d_][^\n:;]{0,40}): (?=\S)")
NOT = r"\b(?:no|not|non|without|lacks?|never|cannot|\w+n't)\b"
MEASURE = re.compile(
    r"\d\s?-?(mm|cm|m|km|inch(?:es)?|in|ft|kg|g|mg|grams?|lbs?|oz|ml|l|lit(?:er|re)s?|w|watts?|v|volts?|mah|wh|hz|khz|ghz|gb|tb|"
    r"mp|db|lm|lumens?|°c|rpm|psi|bar|hours?|minutes?|seconds?|days?|weeks?|months?|years?|%|dollars?|usd|eur|euros?)(?![\w/])",
    re.IGNORECASE,
)


def parse_sheet(request: str) -> dict[str, str]:
    """Return the facts in a request for a description, written as lines, as bullets or with semicolons.

    Example:
        >>> parse_sheet("One sentence, please.\\nName: Oak Desk; Brand: Arlo; Drawers: 2")
        {'Name': 'Oak Desk', 'Brand': 'Arlo', 'Drawers': '2'}

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    text = request[max(request.find("Name: "), 0) :]
    marks = list(FACT.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    values = [text[mark.end() : end].split("\n")[0] for mark, end in zip(marks, ends, strict=True)]
    return {mark[1]: value.strip() for mark, value in zip(marks, values, strict=True)}


def _fold_fact(text: str) -> str:
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", " ".join(text.casefold().split()))
    return re.sub(r"(?<=\d)\.00\b", "", plain)


def find_covered(sheet: dict[str, str], answer: str) -> list[bool]:
    """Return for each fact whether the answer says it; a yes/no fact counts by its name, with or without a "no".

    Example:
        >>> find_covered({"Weight": "228 g", "Noise cancelling": "no"}, "It weighs 1228 g, without noise cancelling.")
        [False, True]

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    text, covered = _fold_fact(answer), []
    for key, value in ((_fold_fact(key), _fold_fact(value)) for key, value in sheet.items()):
        polar = value in ("yes", "no", "none")
        wanted = key if polar or value in ("included", "required") else value
        said = bool(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text))
        denied = re.search(rf"{NOT}[\s\w-]{{0,20}}{re.escape(key)}|{re.escape(key)}\W{{0,3}}(?:no|none)\b", text)
        covered.append(said and (not polar or bool(denied) == (value != "yes")))
    return covered


def find_made_up(sheet: dict[str, str], answer: str, brands: Iterable[str] = ()) -> list[str]:
    """Return the numbers, units and brands of an answer that are not on the sheet.

    Args:
        sheet: The facts given.
        answer: The description.
        brands: Brand names to look for, as they are written.

    Example:
        >>> find_made_up({"Name": "Oak Desk", "Width": "120 cm"}, "A 120 kg Oak Desk by Arlo, 2 drawers.", ["Arlo"])
        ['2', 'kg', 'Arlo']

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    given, text = " ".join(f"{key} {value}" for key, value in sheet.items()), re.sub(r"(?m)^\d+[.)] ", "", answer)
    known = {float(n.replace(",", "")) for n in NUMBER.findall(given)}
    made_up = [n for n in NUMBER.findall(text) if float(n.replace(",", "")) not in known]
    units = {unit.casefold().rstrip("s") for unit in MEASURE.findall(given)}
    made_up += [unit for unit in MEASURE.findall(text) if unit.casefold().rstrip("s") not in units | {"dollar", "usd"}]
    made_up += ["$"] if re.search(r"\$|\b(dollars?|USD)\b", text) and "$" not in given else []
    return made_up + [b for b in brands if re.search(rf"(?<!\w){re.escape(b)}(?!\w)", text) and b not in given]
