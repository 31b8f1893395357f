"""/v1/completions through the official client."""

import concurrent.futures

import pytest

PROMPT = "Once upon a time there was a wolf who"


def stream_text(client, **arguments):
    """Streams a completion; returns each choice's text and finish reason."""
    texts, reasons = {}, {}
    for chunk in client.completions.create(stream=True, **arguments):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.finish_reason:
                assert choice.index not in reasons, "a choice finished twice"
                reasons[choice.index] = choice.finish_reason
    return texts, reasons


def test_whole_answer(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=20, temperature=0,
                                       extra_body={"ignore_eos": True})
    assert answer.object == "text_completion" and answer.model == model
    assert answer.id.startswith("cmpl-") and answer.created > 0
    assert len(answer.choices) == 1 and answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_default_is_16_tokens(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_stream_equals_whole(client, model, temperature):
    arguments = dict(model=model, prompt=PROMPT, max_tokens=60, temperature=temperature, seed=11)
    whole = client.completions.create(**arguments).choices[0]
    texts, reasons = stream_text(client, **arguments)
    assert texts == {0: whole.text}
    assert reasons == {0: whole.finish_reason}


def test_usage_in_streams(client, model):
    arguments = dict(model=model, prompt=PROMPT, max_tokens=10, temperature=0, stream=True)
    chunks = list(client.completions.create(stream_options={"include_usage": True}, **arguments))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 10
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in client.completions.create(**arguments))


def test_several_prompts_and_n(client, model):
    prompts = ["The fox", "The old king", "In the garden"]
    answer = client.completions.create(model=model, prompt=prompts, n=2, max_tokens=12, seed=3,
                                       extra_body={"ignore_eos": True})
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert answer.usage.completion_tokens == 6 * 12
    for i, prompt in enumerate(prompts):
        alone = client.completions.create(model=model, prompt=prompt, n=2, max_tokens=12, seed=3,
                                          extra_body={"ignore_eos": True})
        assert [c.text for c in alone.choices] == [c.text for c in answer.choices[2 * i:2 * i + 2]]
    assert answer.choices[0].text != answer.choices[1].text, "n sequences must differ"


def test_prompts_as_token_ids(client, model):
    ids = client.post("/../tokenize", cast_to=object, body={"prompt": PROMPT})["tokens"]
    arguments = dict(model=model, max_tokens=12, temperature=0)
    text = client.completions.create(prompt=PROMPT, **arguments).choices[0].text
    assert client.completions.create(prompt=ids, **arguments).choices[0].text == text
    two = client.completions.create(prompt=[ids, ids], **arguments)
    assert [choice.text for choice in two.choices] == [text, text]
    assert two.usage.prompt_tokens == 2 * len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string(client, model, stream):
    arguments = dict(model=model, prompt=PROMPT, max_tokens=60, temperature=0)
    free = client.completions.create(extra_body={"ignore_eos": True}, **arguments).choices[0].text
    stop = free[17:23]  # anywhere: seldom at a token's border
    wanted = free[:free.index(stop)]
    if stream:
        assert stream_text(client, stop=[stop, "\0"], **arguments) == ({0: wanted}, {0: "stop"})
        return
    answer = client.completions.create(stop=stop, **arguments)
    assert answer.choices[0].text == wanted
    assert answer.choices[0].finish_reason == "stop"
    # Counted up to the token that completed the stop string.
    used = answer.usage.completion_tokens
    shorter = client.completions.create(**{**arguments, "max_tokens": used}).choices[0].text
    assert stop in shorter
    if used > 1:
        shorter = client.completions.create(**{**arguments, "max_tokens": used - 1}).choices[0].text
        assert stop not in shorter


def test_stop_token_ids(client, model):
    arguments = dict(model=model, prompt=PROMPT, max_tokens=30, temperature=0)
    free = client.completions.create(logprobs=0, extra_body={"ignore_eos": True}, **arguments)
    token = free.choices[0].logprobs.tokens[5]
    ids = client.post("/../tokenize", cast_to=object, body={"prompt": token})["tokens"]
    if len(ids) != 1:
        pytest.skip(f"{token!r} is not one token by itself")
    first = free.choices[0].logprobs.tokens.index(token)
    answer = client.completions.create(extra_body={"stop_token_ids": ids}, **arguments)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == first + 1
    assert answer.choices[0].text == "".join(free.choices[0].logprobs.tokens[:first])


def test_logprobs_and_echo(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=8, temperature=0,
                                       logprobs=3, echo=True, extra_body={"ignore_eos": True})
    choice = answer.choices[0]
    scores = choice.logprobs
    count = answer.usage.total_tokens
    assert choice.text.startswith(PROMPT)
    assert len(scores.tokens) == len(scores.token_logprobs) == count
    assert len(scores.top_logprobs) == len(scores.text_offset) == count
    assert scores.token_logprobs[0] is None
    assert all(logprob <= 0 for logprob in scores.token_logprobs[1:])
    assert all(3 <= len(top) <= 4 for top in scores.top_logprobs[1:])
    for token, offset in zip(scores.tokens, scores.text_offset):
        if not token.startswith("bytes:"):
            assert choice.text[offset:offset + len(token)] == token
    for token, logprob, top in list(zip(scores.tokens, scores.token_logprobs,
                                        scores.top_logprobs))[answer.usage.prompt_tokens:]:
        assert top[token] == logprob == max(top.values()), "greedy takes the likeliest"


def test_streamed_logprobs_equal_whole(client, model):
    arguments = dict(model=model, prompt=PROMPT, max_tokens=12, temperature=0, logprobs=1)
    whole = client.completions.create(**arguments).choices[0].logprobs
    tokens, logprobs, offsets = [], [], []
    for chunk in client.completions.create(stream=True, **arguments):
        for choice in chunk.choices:
            if choice.logprobs:
                tokens += choice.logprobs.tokens
                logprobs += choice.logprobs.token_logprobs
                offsets += choice.logprobs.text_offset
    assert tokens == whole.tokens
    assert offsets == whole.text_offset
    assert logprobs == whole.token_logprobs


def test_prompt_alone_is_scored(client, model):
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == PROMPT
    assert answer.usage.completion_tokens == 0
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.prompt_tokens


def test_seed(client, model):
    def text(seed):
        return client.completions.create(model=model, prompt=PROMPT, max_tokens=30, temperature=1,
                                         seed=seed).choices[0].text
    assert text(1) == text(1)
    assert len({text(seed) for seed in range(6)}) > 1


def test_logit_bias(client, model):
    ids = client.post("/../tokenize", cast_to=object, body={"prompt": " the"})["tokens"]
    assert len(ids) == 1
    answer = client.completions.create(model=model, prompt=PROMPT, max_tokens=4, temperature=0,
                                       logit_bias={str(ids[0]): 100})
    assert answer.choices[0].text == " the the the the"


def test_concurrent_streams_get_the_text_each_gets_alone(client, model):
    def arguments(i):
        return dict(model=model, prompt=f"{PROMPT} {i} " * (1 + i % 5), max_tokens=8 + 5 * (i % 13),
                    temperature=0.0 if i % 3 == 0 else 0.9, seed=i)

    count = 64
    alone = [client.completions.create(**arguments(i)).choices[0] for i in range(count)]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        together = list(pool.map(lambda i: stream_text(client, **arguments(i)), range(count)))
    for i in range(count):
        assert together[i] == ({0: alone[i].text}, {0: alone[i].finish_reason}), f"stream {i}"


def test_a_stream_of_large_events_is_not_taken_for_a_slow_reader(client):
    # Each choice's first event scores the whole prompt: more than the server lets wait.
    stream = client.completions.create(
        model="storyteller", prompt=[list(range(10, 2000))], max_tokens=4, temperature=0, n=3,
        echo=True, logprobs=5, stream=True,
    )
    finished = {choice.index for chunk in stream for choice in chunk.choices if choice.finish_reason}
    assert finished == {0, 1, 2}
