"""Rows without tools: descriptions from a sheet of facts, which are verified, and categories of titles."""

import random
import re

from elm_helpers.answers import ADJECTIVE, MOST_WORDS, NUMBER, Rejected, join_words, say_money, say_spec
from elm_helpers.messages import Slot, expand, fill
from elm_helpers.phrasebook import Phrase
from elm_helpers.world import Item, World, pick

VOICES = ("sentence", "paragraph", "paragraph", "bullets", "seo")
PLAIN = ("yes", "no", "none", "included", "required")  # values that the text says by naming the key
MOST_CHARACTERS = 160  # of a search snippet


def verify_description(sheet: dict[str, str], text: str) -> None:
    """Check that a description says everything on the sheet and no number that isn't on it.

    Raises:
        Rejected: With what is missing or made up.

    Example:
        >>> verify_description({"name": "Oak Desk", "drawers": "2"}, "The Oak Desk has 2 drawers.")

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    lowered = text.lower()
    if any((key if value in PLAIN else value).lower() not in lowered for key, value in sheet.items()):
        raise Rejected("description without something on the sheet")
    if set(NUMBER.findall(text)) - set(NUMBER.findall(" ".join((*sheet, *sheet.values())))):
        raise Rejected("description with a number that isn't on the sheet")
    if len(text.split()) > MOST_WORDS:
        raise Rejected(f"description longer than {MOST_WORDS} words")


def _say_facts(words: dict, specs: dict[str, str], rng: random.Random) -> tuple[list[str], list[str]]:
    """Return the facts in two groups: "made of oak", "vegan", and "3 seats", "a height of 40 cm"."""

    def say(group: str, key: str, value: str) -> str:
        options = (
            words.get(f"descriptions.{group}.{key}", ()) if value not in PLAIN and not re.search("[,;]", value) else ()
        )
        return fill(rng.choice(options).text, {"value": Slot(value)})[0] if options else ""

    made, nouns, traits = [], [], []
    for key, value in specs.items():
        trait = value in ("yes", "no") and ADJECTIVE.search(key)
        like_adjective = say("made", key, value) if rng.random() < 0.7 else ""
        said = like_adjective or say("nouns", key, value) or say_spec(key, value)
        (traits if trait else made if like_adjective else nouns).append(said)
    if len(nouns) < min(2, len(specs)):  # too little to list: say as nouns what can be said so
        named = [say("nouns", key, value) or say_spec(key, value) for key, value in specs.items()]
        made, nouns = [], [said for said in named if said not in traits]
    if not nouns:
        raise Rejected("description with nothing but adjectives")
    return made + sorted(traits, key=lambda said: said.startswith("not ")), nouns


def _write_description(world: World, item: Item, specs: dict, extras: dict, voice: str, rng: random.Random) -> tuple:
    """Return the answer's wording and its text."""
    words, mark = world.book.wordings, rng.choice("--*•")
    made, nouns = _say_facts(words, specs, rng)
    phrase: Phrase = pick(words[f"descriptions.answers.{voice}"], rng)
    where, cost = (rng.choice(words[f"descriptions.{key}"]).text for key in ("where", "cost"))
    lines = [f"{key}: {value}" for key, value in (specs | extras).items()]
    slots = {
        "name": item.name if item.brand.casefold() in item.name.casefold() else f"{item.name} by {item.brand}",
        "where": where.replace("{category}", item.category) if "Category" in extras else "",
        "cost": cost.replace("{price}", say_money(item.price)) if "Price" in extras else "",
        "made": f", {join_words(made)}" if made else "",
        "with": f", with {join_words(nouns)}",
        "nouns": join_words(nouns),
        "bullets": "\n".join(f"{mark} {line[:1].upper()}{line[1:]}" for line in lines),
    }
    text = phrase.text if slots["where"] or slots["made"] else phrase.text.replace("{made}, ", "{made} ")
    return phrase, fill(text, {name: Slot(value) for name, value in slots.items()}, phrase.id)[0]


def build_description(world: World, index: int, rng: random.Random) -> dict:
    """Return a row that turns a sheet of facts into one sentence, a paragraph, bullets or a search snippet.

    Raises:
        Rejected: The text leaves something out, adds a number or is too long.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    voice, item = VOICES[index % len(VOICES)], pick(list(world.items.values()), rng)
    count = min(len(item.specifications), 2 if voice == "seo" else rng.randint(2, 5))
    specs = dict(rng.sample(sorted(item.specifications.items()), count))
    extras = {"Category": item.category} if rng.random() < 0.5 else {}
    extras |= {"Price": say_money(item.price)} if rng.random() < 0.3 else {}
    sheet = {"Name": item.name} | ({"Brand": item.brand} if item.brand else {}) | extras | specs
    lines = [f"{key[:1].upper()}{key[1:]}: {value}" for key, value in sheet.items()]
    shown = rng.choice(("\n".join(lines), "\n".join(lines), "; ".join(lines), "- " + "\n- ".join(lines)))
    prompt = pick(world.book.wordings[f"descriptions.prompts.{voice}"], rng)
    text = fill(expand(prompt.text, {}, rng), {"sheet": Slot(shown)}, prompt.id)[0]
    phrase, answer = _write_description(world, item, specs, extras, voice, rng)
    verify_description(sheet, answer)
    if voice == "seo" and len(answer) > MOST_CHARACTERS:
        raise Rejected(f"search snippet longer than {MOST_CHARACTERS} characters")
    meta = {"template": phrase.id, "products": [item.id], "phrasing": prompt.id, "kind": voice}
    return {"turns": [("user", text), ("assistant", answer)], "meta": meta}


def build_category(world: World, index: int, rng: random.Random) -> dict:
    """Return a row that names the category of a title: another shop's, or a product's, with marketing noise around it.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    words, item = world.book.wordings, pick(list(world.items.values()), rng)
    title, category, source = item.name, item.category, item.id
    if world.titles and rng.random() < 0.62:
        title, category = rng.choice(world.titles)
        source = f"title:{title}"
    elif world.split == "train" and rng.random() < 0.4:
        title = f"{rng.choice(item.variants or ('new',))} " * (rng.random() < 0.3) + rng.choice(item.words)
    case = rng.random()
    title = title.lower() if case < 0.18 else title.upper() if case < 0.25 else title
    title = rng.choice(words["categorization.noise"]).text * (rng.random() < 0.1) + title
    title += rng.choice(words["categorization.tails"]).text * (rng.random() < 0.1)
    prompt = pick(words["categorization.prompts"], rng)
    text = expand(prompt.text, {}, rng)
    text = text[:1].lower() + text[1:] if rng.random() < 0.2 else text
    text = fill(text, {"title": Slot(title)}, prompt.id)[0]
    meta = {"template": prompt.id, "products": [source], "phrasing": prompt.id, "kind": "category"}
    return {"turns": [("user", text), ("assistant", f"Category: {category}")], "meta": meta}
