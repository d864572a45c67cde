import pytest

from ralb_extproc.place import canonical, prefix_of
from ralb_extproc.types import Api, Request


def request(api=Api.CHAT, model="m", **body):
    return Request(api, model, False, (), body=body)


def chat(*turns, **rest):
    return request(messages=[{"role": role, "content": content} for role, content in turns], **rest)


def test_a_longer_conversation_begins_with_the_shorter():
    short = chat(("system", "You are."), ("user", "Hi"))
    longer = chat(("system", "You are."), ("user", "Hi"), ("assistant", "Hello"), ("user", "More"))
    assert canonical(longer).startswith(canonical(short))


@pytest.mark.parametrize(
    "other",
    [
        chat(("system", "You are."), ("user", "Ho")),
        chat(("system", "You were."), ("user", "Hi")),
        chat(("developer", "You are."), ("user", "Hi")),
        chat(("system", "You are."), ("user", "Hi"), tools=[{"type": "function", "function": {"name": "f"}}]),
        request(messages=[{"role": "system", "content": "You are."}, {"role": "user", "content": "Hi", "name": "Bo"}]),
    ],
)
def test_what_templates_render_takes_part(other):
    assert canonical(other) != canonical(chat(("system", "You are."), ("user", "Hi")))


def test_sampling_does_not_take_part():
    assert canonical(chat(("user", "Hi"), temperature=1, max_tokens=5)) == canonical(chat(("user", "Hi")))


def test_text_parts_are_as_one_string():
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "you"}]
    assert canonical(chat(("user", parts))) == canonical(chat(("user", "Hello you")))


def test_key_order_of_tools_does_not_matter():
    a = chat(("user", "Hi"), tools=[{"type": "function", "function": {"name": "f", "description": "d"}}])
    b = chat(("user", "Hi"), tools=[{"function": {"description": "d", "name": "f"}, "type": "function"}])
    assert canonical(a) == canonical(b)


def test_images_are_digests_and_differ():
    def image(data):
        return chat(("user", [{"type": "image_url", "image_url": {"url": "data:" + data * 1_000_000}}]))

    assert len(canonical(image("a"))) < 500
    assert canonical(image("a")) != canonical(image("b"))


def test_tool_calls_take_part():
    def call(arguments):
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]
        return request(messages=[{"role": "assistant", "content": None, "tool_calls": calls}])

    assert canonical(call("{}")) != canonical(call("[]"))


def test_every_api():
    assert b"Once" in canonical(request(Api.COMPLETIONS, prompt="Once"))
    assert b"two" in canonical(request(Api.COMPLETIONS, prompt=["one", "two"]))
    responses = canonical(request(Api.RESPONSES, instructions="Be brief", input="Hi"))
    assert responses.index(b"Be brief") < responses.index(b"Hi")
    items = canonical(request(Api.RESPONSES, input=[{"type": "function_call_output", "output": "42"}]))
    assert b"42" in items
    messages = canonical(
        request(Api.MESSAGES, system=[{"type": "text", "text": "Sys"}], messages=[{"role": "user", "content": "U"}])
    )
    assert messages.index(b"Sys") < messages.index(b"U")


def test_embeddings_have_no_prefix():
    assert prefix_of(request(Api.EMBEDDINGS, input="x" * 5000)).hashes == ()


def test_model_sets_apart():
    body = {"messages": [{"role": "user", "content": "x" * 600}]}
    a, b = (prefix_of(Request(Api.CHAT, model, False, (), body=body)) for model in ("a", "b"))
    assert a.hashes
    assert set(a.hashes).isdisjoint(b.hashes)


def test_odd_shapes_do_not_raise():
    deep = value = []
    for _ in range(500):
        value.append([])
        value = value[0]
    odd = [
        None,
        5,
        "text",
        True,
        {"role": 7, "content": 3.5},
        {"content": [None, 1, {"text": 5}]},
        {"x": deep},
        "\ud800",
    ]
    assert canonical(request(messages=odd))
    assert canonical(request(messages={"role": "user"}))
    assert canonical(request()) == b""


def test_work_is_bounded():
    many = [{"role": "user", "content": [{"type": "x", "v": list(range(100))}] * 100}] * 100
    assert len(canonical(request(messages=many))) < 1_000_000
    assert len(canonical(chat(*[("user", "y" * 1_000_000)] * 50))) < 6 << 20
