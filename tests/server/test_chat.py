"""/v1/chat/completions through the official client."""

import pytest

MESSAGES = [{"role": "user", "content": "Tell me a story about a wolf."}]


def test_whole_answer(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=20, temperature=0,
                                            extra_body={"ignore_eos": True})
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    message = answer.choices[0].message
    assert message.role == "assistant" and message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 20


def test_max_completion_tokens(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_completion_tokens=5,
                                            extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 5


def test_the_end_is_not_part_of_the_text(client, model):
    answer = client.chat.completions.create(model=model, messages=MESSAGES, seed=1)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert "<|im_end|>" not in answer.choices[0].message.content


def test_stream_equals_whole(client, model):
    arguments = dict(model=model, messages=MESSAGES, max_tokens=40, seed=4, n=2)
    whole = client.chat.completions.create(**arguments)
    texts, reasons, roles, usage = {}, {}, {}, None
    for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True},
                                                **arguments):
        assert chunk.object == "chat.completion.chunk"
        assert usage is None, "usage comes last"
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            roles.setdefault(choice.index, choice.delta.role)
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {c.index: c.message.content for c in whole.choices}
    assert reasons == {c.index: c.finish_reason for c in whole.choices}
    assert roles == {0: "assistant", 1: "assistant"}
    # The stream may find more of its prompt in the prefix cache.
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs(client, model):
    arguments = dict(model=model, messages=MESSAGES, max_tokens=10, temperature=0, logprobs=True,
                     top_logprobs=2)
    answer = client.chat.completions.create(**arguments)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 2
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    said = b"".join(bytes(token.bytes) for token in content).decode(errors="replace")
    assert said.startswith(answer.choices[0].message.content)
    streamed = []
    for chunk in client.chat.completions.create(stream=True, **arguments):
        for choice in chunk.choices:
            if choice.logprobs:
                streamed += choice.logprobs.content
    assert streamed == content


def test_content_parts(client, model):
    parts = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    arguments = dict(model=model, max_tokens=10, temperature=0)
    plain = client.chat.completions.create(messages=MESSAGES, **arguments)
    assert client.chat.completions.create(messages=parts, **arguments).choices[0].message == \
        plain.choices[0].message


def test_longer_conversations(client, model):
    messages = [{"role": "system", "content": "You tell stories."}, *MESSAGES,
                {"role": "assistant", "content": "The wolf slept."}, {"role": "user", "content": "Go on."}]
    longer = client.chat.completions.create(model=model, messages=messages, max_tokens=5)
    shorter = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=5)
    assert longer.usage.prompt_tokens > shorter.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string(client, model, stream):
    arguments = dict(model=model, messages=MESSAGES, max_tokens=40, temperature=0)
    free = client.chat.completions.create(extra_body={"ignore_eos": True}, **arguments)
    stop = free.choices[0].message.content[9:14]
    wanted = free.choices[0].message.content.split(stop)[0]
    if stream:
        text = "".join(choice.delta.content or ""
                       for chunk in client.chat.completions.create(stream=True, stop=stop, **arguments)
                       for choice in chunk.choices)
    else:
        choice = client.chat.completions.create(stop=stop, **arguments).choices[0]
        text = choice.message.content
        assert choice.finish_reason == "stop"
    assert text == wanted
