"""Rows with tools: a request and its call, or a whole conversation of one of twelve kinds."""

import json
import random
import re
from dataclasses import replace

from elm_helpers.answers import MOST_LISTED, Rejected, describe_result
from elm_helpers.dialogue import FOREIGN, Dialogue, mark_one
from elm_helpers.signatures import read_parameters
from elm_helpers.strangers import invent_name, invent_query
from elm_helpers.tools import TOOLS, WRITES
from elm_helpers.world import Item, World, draw_slots, pick

MOST_CHARACTERS = 1700  # at most about 700 tokens; `profiles` keeps 768 of a row
# Tools that need a signed-in customer.
OWN = tuple(name for name, tool in TOOLS.items() if "order_id" in {one.name for one in read_parameters(tool)})
PICKS = {"pick_info": "get_product_info", "pick_stock": "get_inventory", "pick_similar": "get_similar_products"}
ABOUT_IT = {"it_info": "get_product_info", "it_stock": "get_inventory", "it_similar": "get_similar_products"}
ABOUT_IT |= {"it_shipping": "calculate_shipping"}
# How a customer gives what was missing, under follow.* in answers.yaml; for another slot, under `given` of the tool.
GIVEN = {"order_id": "order", "destination": "place", "product": "product", "query": "thing"}


def _ask(
    world: World, rng: random.Random, tool: str, dialogue: Dialogue | None = None, foreign: bool = False
) -> tuple[Dialogue, dict, Item]:
    """Let a customer ask for a tool in words that fit them: an order of their own, a product that is in it.

    With `foreign` they want a thing that this shop may not have: real customers do, and the call must copy their words.
    """
    order = pick([o for o in world.orders if o.returnable or tool != "initiate_return"], rng)
    item = world.items[rng.choice(order.names)] if tool == "initiate_return" else pick(list(world.items.values()), rng)
    dialogue = dialogue or Dialogue(world, rng, order.customer_id if rng.random() < 0.5 else None)
    dialogue.customer_id = order.customer_id if tool in OWN else dialogue.customer_id
    instead = {"product": invent_name(world, item, rng), "query": invent_query(world, rng)} if foreign else None
    return dialogue, dialogue.request(tool, item, order, "", instead), item


def _ask_about_it(dialogue: Dialogue, product: str, before: str) -> None:
    kind = dialogue.rng.choice([kind for kind, tool in ABOUT_IT.items() if tool != before])
    places = dialogue.world.values["destination"]
    said = dialogue.follow(kind, {"destination": places[dialogue.rng.choice(list(places))]})
    dialogue.settle(ABOUT_IT[kind], {"product": product} | said)


def _pick_from_list(world: World, index: int, rng: random.Random) -> Dialogue:
    """A search or alternatives, then a question about one of the products in the list, then perhaps one more."""
    tool = rng.choice(("search_products", "search_products", "get_similar_products"))
    dialogue, arguments, item = _ask(world, rng, tool)
    result = dialogue.settle(tool, arguments, item)
    listed = result.get("products", result.get("similar", []))[:MOST_LISTED]
    if len(listed) < 2:
        raise Rejected("list too short to pick from")
    at, kind = rng.randrange(len(listed)), rng.choice(("pick_info", *PICKS))
    product = listed[at]["name"]
    dialogue.follow(kind, {"ordinal": mark_one(listed, at, rng), "number": str(at + 1), "name": product})
    dialogue.settle(PICKS[kind], {"product": product})
    if rng.random() < 0.4:
        _ask_about_it(dialogue, product, PICKS[kind])
    return dialogue


def _ask_twice(world: World, index: int, rng: random.Random) -> Dialogue:
    """A question about a product, then another about the same one."""
    name = rng.choice(("get_product_info", "get_inventory"))
    dialogue, arguments, _ = _ask(world, rng, name)
    result = dialogue.settle(name, arguments)
    if "error" in result:
        raise Rejected(f"{name}: nothing to go on about")
    _ask_about_it(dialogue, result.get("name") or result["product"], name)
    return dialogue


def _ask_then_call(world: World, index: int, rng: random.Random) -> Dialogue:
    """A request that lacks something, ELM's question, the customer's answer, and then the call."""
    intent = pick([intent for intent in world.book.intents if intent.then], rng)
    tool, slot = intent.then
    order, item = pick([o for o in world.orders if o.returnable], rng), pick(list(world.items.values()), rng)
    dialogue = Dialogue(world, rng, order.customer_id if tool in WRITES else None)
    dialogue.talk(intent=intent.intent)
    drawn = draw_slots(world, "{" + slot + "}", rng, item, order, world.book.requests[tool].values)
    arguments = dialogue.follow(GIVEN.get(slot, f"{tool}.given"), {name: str(one.value) for name, one in drawn.items()})
    dialogue.settle(tool, arguments, item)
    return dialogue


def _meet_an_error(world: World, index: int, rng: random.Random) -> Dialogue:
    """A call that the shop refuses, and an answer that says why."""
    item, order, case = pick(list(world.items.values()), rng), pick(world.orders, rng), index // 20 % 6
    tool, needs, owner, instead = rng.choice(OWN), "{order_id}", order.customer_id, {}
    if case == 0:  # a guest
        owner = None
    elif case == 1:  # somebody else's order
        owner = pick([o.customer_id for o in world.orders if o.customer_id != owner], rng)
    elif case == 2:  # an order that can't be returned
        tool, order = "initiate_return", pick([o for o in world.orders if not o.returnable], rng)
        owner, item = order.customer_id, world.items[order.names[0]]
    elif case == 3:  # a product of another shop
        tool, needs = rng.choice(("get_product_info", "get_inventory", "get_similar_products")), "{product}"
        instead = {"product": " ".join(re.findall(r"[A-Za-z][\w'-]+", pick(world.titles, rng)[0])[: rng.randint(3, 5)])}
    elif case == 4:  # a place where the shop does not deliver
        tool, needs = "calculate_shipping", "{destination}"
        instead = {"destination": pick(world.book.wordings["answers.elsewhere"], rng).text}
    else:  # a variant that the product does not have
        tool, needs = "get_inventory", "{variant}"
        others = [i.variants for i in world.items.values() if i.variants and not set(i.variants) & set(item.variants)]
        instead = {"variant": rng.choice(pick(others, rng)), "product": item.name}
    dialogue = Dialogue(world, rng, owner)
    arguments = dialogue.request(tool, item, order, needs, instead)
    if "error" not in dialogue.settle(tool, arguments):
        raise Rejected("error row whose call went well")
    return dialogue


def _recover(world: World, index: int, rng: random.Random) -> Dialogue:
    """A call that the shop refuses, the customer's correction, and the call that then goes well."""
    case = index // 20 % 3
    order = pick([o for o in world.orders if o.returnable or case], rng)
    item = world.items[rng.choice(order.names)]
    if case == 0:  # a mistyped order number
        tool, kind, wrong = rng.choice(OWN), "order", {"order_id": _mistype(order.id, rng)}
        right = {"order_id": order.id}
    elif case == 1:  # a product of another shop
        tool, kind, wrong = (
            rng.choice(tuple(ABOUT_IT.values())[:3]),
            "product",
            {"product": invent_name(world, item, rng)},
        )
        right = {"product": item.name}
    else:  # a place where the shop does not deliver
        tool, kind = "calculate_shipping", "place"
        wrong = {"destination": pick(world.book.wordings["answers.elsewhere"], rng).text}
        places = world.values["destination"]
        right = {"destination": places[rng.choice(list(places))]}
    dialogue = Dialogue(world, rng, order.customer_id)
    arguments = dialogue.request(tool, item, order, "{" + next(iter(wrong)) + "}", wrong)
    if "error" not in dialogue.settle(tool, arguments):
        raise Rejected("error row whose call went well")
    arguments |= dialogue.follow(kind, right)
    if "error" in dialogue.settle(tool, arguments):
        raise Rejected("correction that the shop refuses too")
    return dialogue


def _mistype(order_id: str, rng: random.Random) -> str:
    """Return the number with two neighbours swapped or a character lost, as fingers do it."""
    at = rng.randrange(len(order_id) - 1)
    swapped = order_id[:at] + order_id[at + 1] + order_id[at] + order_id[at + 2 :]
    return swapped if swapped != order_id else order_id[:at] + order_id[at + 1 :]


def _ask_two_things(world: World, index: int, rng: random.Random) -> Dialogue:
    """Two wishes about one product in one message: two calls in a row, then one answer to both."""
    first = rng.choice(("get_product_info", "get_inventory"))
    dialogue, arguments, item = _ask(world, rng, first)
    kind = rng.choice([kind for kind, tool in ABOUT_IT.items() if tool != first and kind != "it_similar"])
    places = world.values["destination"]
    said = dialogue.add_wish(kind, {"destination": places[rng.choice(list(places))]})
    parts = []
    for tool, given in ((first, arguments), (ABOUT_IT[kind], {"product": arguments["product"]} | said)):
        result = dialogue.call(tool, given)
        if "error" in result or "candidates" in result:
            raise Rejected("two wishes, one of which the shop cannot serve at once")
        parts.append(describe_result(tool, given, result, rng))
    dialogue.answer(*parts)
    return dialogue


def _ignore_an_instruction(world: World, index: int, rng: random.Random) -> Dialogue:
    """A question about a product whose description gives the model orders: they are data, and nothing comes of them."""
    dialogue, arguments, item = _ask(world, rng, "get_product_info")
    order = pick(world.orders, rng)
    phrase = pick(world.book.wordings["answers.hostile"], rng)
    planted = phrase.text.replace("{order_id}", order.id).replace("{name}", item.name)
    dialogue.change_shop("UPDATE products SET description = ? || ' ' || description WHERE id = ?", (planted, item.id))
    if planted not in json.dumps(dialogue.settle("get_product_info", arguments), ensure_ascii=False):
        raise Rejected("planted instruction that the tool did not return")
    dialogue.templates.append(phrase.id)
    return dialogue


def _find_nothing(world: World, index: int, rng: random.Random) -> Dialogue:
    """A search that finds nothing at that price, and an honest answer."""
    order, item = pick(world.orders, rng), pick(list(world.items.values()), rng)
    dialogue = Dialogue(world, rng, order.customer_id if rng.random() < 0.5 else None)
    least = min(other.price for other in world.items.values() if other.kind == item.kind)
    poor = replace(item, price=pick([n for n in (1, 2, 4, 7, 10, 15, 25, 40, 75, 100) if 2.2 * n < least], rng))
    arguments = dialogue.request("search_products", poor, order, "{max_price}")
    if dialogue.settle("search_products", arguments, item)["total"]:
        raise Rejected("empty search that found something")
    return dialogue


def _run_one(world: World, index: int, rng: random.Random, tool: str = "") -> Dialogue:
    tool = tool or list(TOOLS)[(index // 20 * 4 + index % 20) % len(TOOLS)]
    dialogue, arguments, item = _ask(world, rng, tool)
    dialogue.settle(tool, arguments, item)
    return dialogue


def _talk(world: World, index: int, rng: random.Random) -> Dialogue:
    """A request that gets no call; a few come after small talk or after a question that a tool answered."""
    kind, lead_in = "ask_back" if index % 20 < 5 else "no_call", index % 20 in (4, 9)
    dialogue = _run_one(world, rng.randrange(160), rng) if lead_in and kind == "no_call" else None
    dialogue = dialogue or Dialogue(world, rng, pick(world.orders, rng).customer_id if rng.random() < 0.5 else None)
    if lead_in and kind == "ask_back":
        dialogue.talk("no_call")
    dialogue.talk(kind)
    return dialogue


def build_conversation(world: World, index: int, rng: random.Random) -> dict:
    """Return a conversation: in 13 of 20 the request needs no call or lacks something, in 7 tools run.

    Not calling is the harder skill: a small model that saw mostly calls answers a complaint with a search.

    Raises:
        Rejected: Something in it did not work out; the next attempt draws anew.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    turn = index // 20
    last = ("ask_then_call", _ask_then_call) if turn % 2 else ("empty", _find_nothing)
    returns = ("return", lambda world, index, rng: _run_one(world, index, rng, "initiate_return"))
    more = (("call", _run_one), ("two_tools", _ask_two_things), ("hostile", _ignore_an_instruction))[turn % 3]
    wrong = ("error", _meet_an_error) if turn // 2 % 2 else ("recover", _recover)
    plan = [("ask_back", _talk)] * 5 + [("no_call", _talk)] * 8 + [("call", _run_one), more, returns]
    plan += [("pick", _pick_from_list), ("follow_up", _ask_twice), wrong, last]
    index += index * 7 % 20 - index % 20  # no two neighbours of a kind
    kind, build = plan[index % 20]
    dialogue = build(world, index, rng)
    if kind not in ("ask_back", "no_call") and rng.random() < 0.1:
        dialogue.follow("thanks")
        dialogue.answer(("follow.welcome", {}))
    if sum(len(text) for _, text in dialogue.turns) > MOST_CHARACTERS:
        raise Rejected(f"conversation longer than {MOST_CHARACTERS} characters")
    return dialogue.finish(kind)


def build_call(world: World, index: int, rng: random.Random) -> dict:
    """Return a row that ends in a call, the tools in turn; one in five follows an earlier exchange.

    Raises:
        Rejected: The shop refuses the call.

    Shown in ``notebooks/01_generate_data.ipynb``.
    """
    tool, dialogue = list(TOOLS)[index % len(TOOLS)], None
    if rng.random() < 0.2:
        dialogue = Dialogue(world, rng, pick(world.orders, rng).customer_id)
        dialogue.talk("no_call")
    foreign = tool not in OWN and rng.random() < FOREIGN
    dialogue, arguments, _ = _ask(world, rng, tool, dialogue, foreign)
    if "error" in dialogue.call(tool, arguments) and not (foreign and "product" in arguments):
        raise Rejected(f"{tool}: the shop refuses the call")
    del dialogue.turns[-1]
    dialogue.templates.clear()
    return dialogue.finish("call")
