"""The system prompts: one short line for ELM, and a fair long one for models that were never taught the tools."""

from elm_helpers.catalogue import CATEGORIES
from elm_helpers.tools import list_signatures

GUEST = "You are ELM, the assistant of an online shop. The customer is not signed in."
SIGNED_IN = "You are ELM, the assistant of an online shop. The customer is signed in."
WITH_TOOLS = """{who}

You can call one of these tools:
{signatures}

To call a tool, reply with the call alone, on one line, in exactly this form:
<tool_call>search_products(query="wireless headphones", max_price=100)</tool_call>
Use keyword arguments only, text in double quotes, numbers without quotes. Copy products, order numbers, places, codes
and reasons from the customer's words. Leave out each optional argument that they did not mention. Make nothing up.

Which tool:
- The customer looks for a kind of thing: search_products.
- A question about a named product: get_product_info; whether it is in stock: get_inventory.
- Alternatives to a named product: get_similar_products.
- Cost or time of delivery to a place: calculate_shipping.
- Codes, vouchers, loyalty: get_discount_eligibility.
- An order, its status or tracking: get_customer_orders. Sending an order back: initiate_return.

Do not call a tool when
- something that it needs is missing (an order number, a destination, a product): ask one question, for exactly that;
- the customer is not signed in and asks about an order without its number: ask for the order number;
- it is small talk, thanks, a complaint without a request, a question about the shop's rules, or not about the shop:
  answer in one sentence;
- no tool can do it (cancel or change an order, exchange, change an address, talk to a person): say so in one sentence.

When you are asked for the category of a product, reply with `Category: <name>` and nothing else. The names are:
{categories}

When you are given facts about a product, write the text from these facts alone: use every fact, add none."""

SHOTS = {  # what a few examples can show: a call, a question back, an answer without a tool, a category
    "hi, do you have any garden chairs for less than 80 dollars?": (
        '<tool_call>search_products(query="garden chairs", max_price=80)</tool_call>'
    ),
    "Refund me for the lamp": "Sure. What's the order number?",
    "Has order BX-4410 been sent yet": '<tool_call>get_customer_orders(order_id="BX-4410")</tool_call>',
    "Could you wake me at six?": "I can't do that, I only help with the shop. Is there a product I can look up?",
    "Which category is this? Ceramic Plant Pot with Saucer": "Category: Home & Garden",
}
EXAMPLES = tuple(
    {"role": role, "content": text}
    for turn in SHOTS.items()
    for role, text in zip(("user", "assistant"), turn, strict=True)
)


def build_system(customer_id: str | None) -> str:
    """Return ELM's system prompt; it says whether somebody is signed in, never who.

    The id stays out on purpose: identity comes from the session, so the model can neither leak nor invent it.

    Args:
        customer_id: The signed-in customer, or None for a guest.

    Returns:
        One line, the same bytes in data, training, inference and agents, so that every engine can cache it.

    Example:
        >>> build_system(None).endswith("not signed in.")
        True

    Shown in ``notebooks/02_inspect_tokens.ipynb``.
    """
    return GUEST if customer_id is None else SIGNED_IN


def build_system_with_tools(customer_id: str | None) -> str:
    """Return all that a model must know when it was never trained on the shop: tools, wire format, rules, categories.

    The comparison with a fine-tuned model is only worth something if the untrained one gets a fair prompt.

    Args:
        customer_id: The signed-in customer, or None for a guest.

    Returns:
        About 450 words; the lines about tools come from the same functions that run.

    Example:
        >>> "get_inventory(product: str" in build_system_with_tools("C0001")
        True

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    names = "; ".join(CATEGORIES)
    return WITH_TOOLS.format(who=build_system(customer_id), signatures=list_signatures(), categories=names)


def build_conversation(request: dict, where: str = "request") -> list[dict]:
    """Return the messages of one request, beginning with ELM's system prompt.

    Args:
        request: ``{"text"}`` or ``{"messages": [{"role", "content"}]}``, with an optional ``"customer_id"``.
        where: What an error message calls it, such as file and line.

    Raises:
        ValueError: Neither text nor messages, or of the wrong type; the message names the field.

    Example:
        >>> build_conversation({"text": "hello"})[1]
        {'role': 'user', 'content': 'hello'}

    Shown in ``notebooks/04_run_locally.ipynb``.
    """
    customer = request.get("customer_id")
    if customer is not None and not isinstance(customer, str):
        raise ValueError(f"{where}: customer_id is {customer!r}; a string or null is right")
    messages = request.get("messages")
    if messages is None:
        if not isinstance(request.get("text"), str):
            raise ValueError(f"{where}: found neither a string in 'text' nor a list in 'messages'")
        messages = [{"role": "user", "content": request["text"]}]
    fits = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not fits or not messages:
        raise ValueError(f"{where}: 'messages' is a list of objects with the strings 'role' and 'content'")
    spoken = [{"role": m["role"], "content": m["content"]} for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": build_system(customer)}, *spoken]
