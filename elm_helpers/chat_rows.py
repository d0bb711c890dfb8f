"""Conversation rows from imported chats: how people really write, without any fact that an agent must look up."""

import json
import re

from elm_helpers.answers import Rejected
from elm_helpers.store import OTHER_SIDE
from elm_helpers.world import World

MOST_CHARACTERS = 1700  # as in `conversations`
PERSON = re.compile(r",?\s*\[PERSON_\d+\]")
PLACEHOLDER = re.compile(r"\[(?:EMAIL|PHONE|CARD|IBAN|ADDRESS|PERSON)_\d+\]")
LOOKED_UP = re.compile(
    r"\b((in|out of|back in|low) stock|sold out|(un)?available|shipped|dispatched|delivered|on (its|the) way|"
    r"in transit|tracking|refunded|refund has|cancelled|discount|voucher|coupon|free shipping)\b",
    re.IGNORECASE,
)


def build_chat(world: World, index: int) -> dict | None:
    """Return the row of the split's next imported chat for every second conversation, until each was used once.

    The agent must not learn to state facts without a tool, and an imported reply comes without its evidence. So a chat
    is dropped where the agent states a number, names a product, or says how stock, an order or a price stands.

    Args:
        world: Its store holds the chats of one split.
        index: Number of the conversation row.

    Raises:
        Rejected: The chat can't be a row; the reason is counted, and the row is generated instead.

    Shown in ``notebooks/07_import_store_data.ipynb``.
    """
    query = "SELECT id, messages FROM conversations ORDER BY id LIMIT 1 OFFSET ?"
    found = world.conn.execute(query, (index // 2,)).fetchone() if index % 2 == 0 else None
    if found is None:
        return None
    if found["messages"] == OTHER_SIDE:
        raise Rejected("imported chat about a product of the other side of the split")
    turns, heard = [], ""
    for message in json.loads(found["messages"]):
        role, text = message["role"], message["content"]
        if role == "assistant":
            text = PERSON.sub("", text)
            _check_reply(world, text, heard)
        heard += PLACEHOLDER.sub("", f"\n{text}")
        turns.append((role, text))
    while len(turns) > 2 and sum(len(text) for _, text in turns) > MOST_CHARACTERS:
        turns = turns[:-2]
    if sum(len(text) for _, text in turns) > MOST_CHARACTERS:
        raise Rejected("imported chat that is too long")
    name = f"chat:{found['id']}"
    return {"turns": turns, "meta": {"template": name, "products": [], "phrasing": name, "kind": "imported"}}


def _check_reply(world: World, text: str, heard: str) -> None:
    if not re.search(r"\w", text) or PLACEHOLDER.search(text):
        raise Rejected("imported chat whose agent repeats personal data")
    names = {name for item in world.items.values() for name in (item.brand, " ".join(item.name.split()[:2])) if name}
    if any(name.casefold() in text.casefold() for name in names):
        raise Rejected("imported chat whose agent names a product")
    if set(re.findall(r"\d+", text)) - set(re.findall(r"\d+", heard)):
        raise Rejected("imported chat whose agent states a number")
    if LOOKED_UP.search(text):
        raise Rejected("imported chat whose agent says what a tool has to look up")
