"""What customers call things that this shop does not sell: names and queries that no catalogue holds."""

import random
import re

from elm_helpers.world import HANGING, Item, World, pick

SYLLABLES = "ar bel cor dan el fen gal hal ir jun kor lum mar nor os pel quin ros sal tor ul ven wim xan yor zel ko ra"
SYLLABLES = tuple(f"{SYLLABLES} ti vo ni da mi lex bri stra clo dru fi gra hea pri tho wel bos ch ki phi so ta".split())
PLAIN_WORDS = (
    "north wind trail head tide water stone bridge oak field silver fern black wood river side blue bird iron gate"
)
PLAIN_WORDS += (
    " fox glove harbor light star green lake moss hill copper wolf snow cap bay leaf sun ridge red barn moon shore"
)
PLAIN_WORDS = tuple(PLAIN_WORDS.split())
SERIES = ("Pro", "Max", "Mini", "Air", "Plus", "One", "Sport", "Classic", "Neo", "Ultra", "Eco", "Prime", "Go", "Lite")


def invent_name(world: World, item: Item, rng: random.Random) -> str:
    """Return what a customer calls a product of another shop: a made-up brand, a model, what kind of thing it is.

    A model that only ever copied 500 names learns those names; one that saw thousands learns to copy.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    if world.titles and rng.random() < 0.25:
        return invent_query(world, rng)
    brand = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((1, 2, 2, 3)))).capitalize()
    brand = "".join(rng.sample(PLAIN_WORDS, 2)).capitalize() if rng.random() < 0.4 else brand
    brand = "".join(rng.choices("ABCDEFGHJKLMNPRSTVWXZ", k=rng.choice((2, 3)))) if rng.random() < 0.15 else brand
    letters, digits = "".join(rng.choices("ABCDEFGHKLMNPRSTVXZ", k=rng.randint(1, 3))), str(rng.randint(2, 9900))
    models = (f"{letters}{digits}", f"{letters}-{digits}", f"{digits}{letters}", digits, rng.choice(SERIES))
    model = f"{rng.choice(SERIES)} {rng.randint(1, 14)}" if rng.random() < 0.2 else rng.choice(models)
    kind = rng.choice(item.words)
    forms = (f"{brand} {model}", f"{brand} {model} {kind}", f"{brand} {kind}", f"{brand} {rng.choice(SERIES)} {kind}")
    name = rng.choice((*forms, f"{model} {kind}", f"{brand}'s {kind}", brand + " " + model))
    return name.lower() if rng.random() < 0.3 else name


def invent_query(world: World, rng: random.Random) -> str:
    """Return what a customer types to find something that other shops sell: the first words of one of their titles.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    words = re.sub(r"[^\w' -]", " ", pick(world.titles, rng)[0]).split()
    text = HANGING.sub("", " ".join(words[: rng.randint(2, 5)]))
    return text.lower() if rng.random() < 0.8 else text
