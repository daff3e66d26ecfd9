"""The gateway over a fake node: the official `openai` client on a real port, hand-made requests for what it never sends."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import msgspec
import openai
import pytest
import trio

from node.clock import SystemClock
from node.config import HttpConfig
from node.http.answering import Answer
from node.http.chat import ChatWording, parse_chat_request
from node.http.server import bound_http_socket, serve_http
from node.lifecycle import Lifecycle
from protocols import limits
from protocols.errors import UserError
from tests.node.fake_node import DIGEST, SESSION, FakeNode

MESSAGES = [{"role": "user", "content": "one two three"}]


class Gateway:
    """A served gateway: its node, its address, and raw requests to it."""

    def __init__(self, node, lifecycle, nursery):
        self.node = node
        self.lifecycle = lifecycle
        self.nursery = nursery

    @property
    def address(self):
        return self.lifecycle.http

    @asynccontextmanager
    async def client(self, api_key="none"):
        async with openai.AsyncOpenAI(
            base_url=f"http://{self.address}/v1", api_key=api_key, max_retries=0, timeout=10
        ) as client:
            yield client

    async def stream(self, **fields):
        """Chunks of a streamed completion, and the error that ended it or None.

        The synchronous client, on a thread: the asynchronous one leaves its generators unfinished under trio.
        """

        def collect():
            chunks = []
            with openai.OpenAI(
                base_url=f"http://{self.address}/v1", api_key="none", max_retries=0, timeout=10
            ) as client:
                try:
                    with client.chat.completions.create(messages=MESSAGES, stream=True, **fields) as stream:
                        chunks.extend(stream)
                except openai.APIError as error:
                    return chunks, error
            return chunks, None

        return await trio.to_thread.run_sync(collect)

    async def connect(self):
        host, _, port = self.address.rpartition(":")
        return await trio.open_tcp_stream(host, int(port))

    async def send(self, method, path, body=b"", **headers):
        """A connection on which this request has been sent."""
        named = {"host": self.address, "content-length": str(len(body)), "connection": "close"}
        named |= {key.replace("_", "-"): value for key, value in headers.items()}
        head = "".join(f"{key}: {value}\r\n" for key, value in named.items() if value is not None)
        stream = await self.connect()
        await stream.send_all(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        return stream

    async def request(self, method, path, body=b"", **headers):
        """Status, headers and body of the answer."""
        stream = await self.send(method, path, body, **headers)
        async with stream:
            answer = b""
            with trio.fail_after(10):
                while chunk := await stream.receive_some():
                    answer += chunk
        head, _, rest = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), fields, rest

    async def chat(self, **fields):
        body = json.dumps({"model": "tiny", "messages": MESSAGES} | fields).encode()
        return await self.request("POST", "/v1/chat/completions", body)


@asynccontextmanager
async def running(**settings):
    config = HttpConfig(port=0, **settings)
    clock = SystemClock()
    lifecycle = Lifecycle("/home/anna", clock)
    node = FakeNode()
    lifecycle.ready(node)
    with bound_http_socket(config) as bound:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_http, bound, config, lifecycle, clock)
            yield Gateway(node, lifecycle, nursery)
            lifecycle.withdraw()


@pytest.fixture
async def gateway():
    async with running() as gateway:
        yield gateway


# What the client asks ------------------------------------------------------------------------------------------------


async def test_models_are_listed_and_found_by_name_and_digest(gateway):
    async with gateway.client() as client:
        [model] = (await client.models.list()).data
        assert (model.id, model.object, model.owned_by) == ("tiny", "model", "weft")
        assert model.weft == {"digest": DIGEST, "layers": 8, "context": 512, "ready": True}
        assert (await client.models.retrieve("tiny")).id == "tiny"
        assert (await client.models.retrieve(DIGEST)).id == "tiny"
        with pytest.raises(openai.NotFoundError, match="No model is called"):
            await client.models.retrieve("org/other")


async def test_the_memory_of_the_node_is_one_object(gateway):
    status, headers, body = await gateway.request("GET", "/v1/memory/tensor")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == json.loads(msgspec.json.encode(gateway.node.memory()))


async def test_a_completion_comes_whole(gateway):
    async with gateway.client() as client:
        completion = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=3, temperature=0, seed=5, stop="x", user="u"
        )
    assert completion.id == f"chatcmpl-{SESSION}"
    assert completion.system_fingerprint == DIGEST
    assert completion.choices[0].message.content == "one two three"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.total_tokens == 6
    [request] = gateway.node.requests
    assert (request.max_tokens, request.temperature, request.seed, request.stop) == (3, 0, 5, ("x",))


async def test_a_completion_streams_with_usage_at_the_end(gateway):
    chunks, error = await gateway.stream(model="moved", stream_options={"include_usage": True})
    assert error is None
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{SESSION}"}


async def test_a_stream_ends_with_done_and_is_not_to_be_cached(gateway):
    status, headers, body = await gateway.chat(stream=True)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-cache"
    assert b"data: [DONE]\n\n" in body
    assert b'"usage":{' not in body


async def test_parameters_default_as_in_the_api_and_parts_are_joined(gateway):
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    await gateway.chat(messages=messages, max_tokens=2, max_completion_tokens=4, stop=["x", "y"], top_k=3)
    [request] = gateway.node.requests
    assert [message.content for message in request.messages] == ["s", "a b"]
    assert (request.temperature, request.top_p, request.top_k) == (1.0, 1.0, 3)
    assert (request.max_tokens, request.stop, request.seed) == (4, ("x", "y"), None)


async def test_harmless_values_of_what_is_not_built_are_ignored(gateway):
    status, _, _ = await gateway.chat(
        n=1, tools=[], tool_choice="none", response_format={"type": "text"}, logprobs=False, top_logprobs=0,
        frequency_penalty=0.0, presence_penalty=0, logit_bias={}, modalities=["text"], store=True, metadata={"a": "b"},
        audio=None,
    )  # fmt: skip
    assert status == 200


async def test_every_way_of_drawing_is_passed_on(gateway):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with gateway.client() as client:
        await client.chat.completions.create(
            model="tiny", messages=MESSAGES, frequency_penalty=0.5, presence_penalty=-1, logit_bias={"5": 1, "6": -100},
            response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}},
            extra_body={"min_p": 0.1, "repetition_penalty": 1.5},
        )  # fmt: skip
        await client.chat.completions.create(
            model="tiny", messages=MESSAGES, response_format={"type": "json_object"}
        )
    first, second = gateway.node.requests
    assert (first.frequency_penalty, first.presence_penalty, first.min_p) == (0.5, -1, 0.1)
    assert (first.repetition_penalty, first.logit_bias, first.logprobs) == (1.5, {5: 1, 6: -100}, None)
    assert json.loads(first.json_schema) == schema
    assert json.loads(second.json_schema) == {"type": "object"}


@pytest.mark.parametrize("streams", [False, True])
async def test_logprobs_have_each_token_once_with_its_bytes(gateway, streams):
    if streams:
        chunks, error = await gateway.stream(model="moved", logprobs=True, top_logprobs=2)
        assert error is None
        parts = [chunk.choices[0].logprobs for chunk in chunks]
        content = [each for part in parts if part for each in part.content]
    else:
        async with gateway.client() as client:
            answer = await client.chat.completions.create(
                model="moved", messages=MESSAGES, logprobs=True, top_logprobs=2
            )
        content = answer.choices[0].logprobs.content
    assert [each.token for each in content] == ["one", " two", " three"]
    assert [bytes(each.bytes) for each in content] == [b"one", b" two", b" three"]
    assert [each.logprob for each in content] == [-0.5] * 3
    assert [(each.token, each.logprob) for each in content[1].top_logprobs] == [
        (" two", -0.5),
        ("\N{REPLACEMENT CHARACTER}", -1.25),
    ]


# The older endpoint --------------------------------------------------------------------------------------------------


async def test_the_older_endpoint_takes_a_prompt_as_it_is(gateway):
    async with gateway.client() as client:
        answer = await client.completions.create(model="tiny", prompt="one two three", logprobs=2, best_of=1)
        await client.completions.create(model="tiny", prompt=["one"], max_tokens=9, seed=4)
    assert (answer.object, answer.id) == ("text_completion", f"cmpl-{SESSION}")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("one two three", "stop")
    assert answer.usage.total_tokens == 6
    told = answer.choices[0].logprobs
    assert told.tokens == ["one", " two", " three"]
    assert told.token_logprobs == [-0.5] * 3
    assert told.text_offset == [0, 3, 7]
    assert told.top_logprobs[0] == {"one": -0.5, "bytes:\\xe2\\x98": -1.25}
    first, second = gateway.node.requests
    assert (first.prompt, first.messages, first.max_tokens, first.logprobs) == ("one two three", None, 16, 2)
    assert (second.prompt, second.max_tokens, second.logprobs) == ("one", 9, None)


async def test_the_older_endpoint_streams(gateway):
    fields = {
        "model": "moved",
        "prompt": "one two",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    status, _, body = await gateway.request("POST", "/v1/completions", json.dumps(fields).encode())
    lines = [line.removeprefix("data: ") for line in body.decode().splitlines() if line.startswith("data: ")]
    *chunks, usage = [json.loads(line) for line in lines[:-1]]
    assert (status, lines[-1]) == (200, "[DONE]")
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
    ],
)
async def test_what_the_older_endpoint_does_not_do_is_refused_by_name(gateway, fields, param):
    body = json.dumps({"model": "tiny"} | fields).encode()
    status, _, answer = await gateway.request("POST", "/v1/completions", body)
    assert (status, json.loads(answer)["error"]["param"].split("[")[0]) == (400, param)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"modalities": ["audio"]},
    ],
)
async def test_what_would_change_the_meaning_is_refused_by_name(gateway, fields):
    async with gateway.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body=fields)
    assert caught.value.code == "unsupported_parameter"
    assert caught.value.param == next(iter(fields))
    assert gateway.node.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_p": 0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),
        ({"logprobs": 3}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"seed": -1}, "seed"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": "b" * 70_000}}}},
            "response_format",
        ),
    ],
)
async def test_a_value_out_of_bounds_is_a_400_that_names_its_parameter(gateway, fields, param):
    status, _, answer = await gateway.chat(**fields)
    error = json.loads(answer)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert (error["param"] or "").startswith(param)
    assert "\n" not in error["message"]
    assert gateway.node.requests == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"\xff", None),
        (b"[" * 50_000, None),
        (b'{"messages": [{"role": "user", "content": "a"}]}', None),
        (b'{"model": "tiny", "messages": []}', "messages"),
        (
            b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": "9"}',
            "max_tokens",
        ),
        (
            b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": -1}',
            "temperature",
        ),
        (
            b'{"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            "messages",
        ),
    ],
)
async def test_a_wrong_body_is_a_400_that_names_the_parameter(gateway, body, param):
    status, _, answer = await gateway.request("POST", "/v1/chat/completions", body)
    error = json.loads(answer)["error"]
    assert status == 400
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(param or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("unknown", 404, "model_not_found"),
        ("too-long", 400, "invalid_value"),
        ("refused", 403, "refused"),
        ("overloaded", 429, "overloaded"),
        ("no-route", 503, "unavailable"),
        ("timed-out", 503, "unavailable"),
        ("malformed", 502, "peer_fault"),
        ("fault", 500, "internal"),
        ("bug", 500, "internal"),
    ],
)
async def test_an_error_before_the_answer_has_its_status(gateway, model, status, code, stream):
    found, headers, body = await gateway.chat(model=model, stream=stream)
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert ("retry-after" in headers) == (status in {429, 503})
    assert "a bug" not in body.decode()
    assert (await gateway.request("GET", "/health"))[0] == 200


async def test_an_error_in_mid_stream_is_the_last_event(gateway):
    chunks, error = await gateway.stream(model="late-no-route")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one"
    assert "No standby is left" in str(error)
    assert error.code == "unavailable"
    assert b"[DONE]" not in (await gateway.chat(model="late-no-route", stream=True))[2]


async def test_an_error_in_mid_answer_has_its_status_when_it_is_not_streamed(gateway):
    assert (await gateway.chat(model="late-no-route"))[0] == 503


async def test_unknown_paths_and_methods_are_told_in_the_same_shape(gateway):
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/chat/completions", 405)):
        found, _, body = await gateway.request(method, path)
        assert found == status
        assert json.loads(body)["error"]["code"] == "unknown_url"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_past_the_limit_is_a_413(gateway, monkeypatch, declared):
    monkeypatch.setattr(limits, "HTTP_BODY_BYTES_MAX", 100)
    body = b"x" * 101
    framing = {} if declared else {"content_length": None, "transfer_encoding": "chunked"}
    sent = body if declared else b"65\r\n" + body + b"\r\n0\r\n\r\n"
    status, _, answer = await gateway.request("POST", "/v1/chat/completions", sent, **framing)
    assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")


async def test_too_many_requests_are_a_429(gateway, monkeypatch):
    monkeypatch.setattr(limits, "HTTP_REQUESTS_MAX", 0)
    status, headers, _ = await gateway.request("GET", "/v1/models")
    assert (status, headers["retry-after"]) == (429, "1")


# Who may ask ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:99"}, 200),
        ({"origin": "http://localhost:3000"}, 200),
        ({"origin": "http://127.0.0.1"}, 200),
    ],
)
async def test_pages_of_other_sites_may_not_use_a_loopback_node(gateway, headers, status):
    assert (await gateway.request("GET", "/v1/models", **headers))[0] == status


async def test_a_key_is_asked_for_everywhere_but_health():
    async with running(api_key="secret") as gateway:
        async with gateway.client("secret") as client:
            assert (await client.models.list()).data
        async with gateway.client("wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        assert (await gateway.request("GET", "/v1/models"))[0] == 401
        assert (await gateway.request("GET", "/health"))[0] == 200


async def test_a_request_id_is_kept_or_given(gateway):
    assert (await gateway.request("GET", "/health", x_request_id="abc"))[1]["x-request-id"] == "abc"
    given = [(await gateway.request("GET", "/nowhere"))[1]["x-request-id"] for _ in range(2)]
    assert given[0].startswith("req-")
    assert given[0] != given[1]


# Ends ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_its_generation(gateway, stream):
    body = json.dumps({"model": "hold", "messages": MESSAGES, "stream": stream}).encode()
    connection = await gateway.send("POST", "/v1/chat/completions", body)
    with trio.fail_after(10):
        await trio.to_thread.run_sync(gateway.node.generating.wait)
        await connection.aclose()
        await trio.to_thread.run_sync(gateway.node.cancelled.wait)
        while gateway.node.running:
            await trio.lowlevel.checkpoint()
    assert (await gateway.request("GET", "/health"))[0] == 200


async def test_health_says_when_the_node_drains(gateway):
    gateway.lifecycle.stop()
    status, _, body = await gateway.request("GET", "/health")
    assert status == 503
    assert "draining" in json.loads(body)["error"]["message"]


async def test_taking_the_node_down_ends_what_still_streams():
    async with running() as gateway:
        body = json.dumps({"model": "hold", "messages": MESSAGES, "stream": True}).encode()
        connection = await gateway.send("POST", "/v1/chat/completions", body)
        with trio.fail_after(10):
            await trio.to_thread.run_sync(gateway.node.generating.wait)
    assert gateway.node.cancelled.is_set()
    await connection.aclose()


async def test_a_silent_stream_sends_comments_to_stay_open(autojump_clock):
    sent = []

    async def send(message):
        sent.append(message.get("body", b""))

    request = parse_chat_request(json.dumps({"model": "hold", "messages": MESSAGES, "stream": True}).encode())
    with trio.move_on_after(3.5 * limits.HTTP_KEEPALIVE_S):
        await Answer(FakeNode(), ChatWording(request, 1), streams=True)(
            {"type": "http"}, trio.sleep_forever, send
        )
    assert sent.count(b": keepalive\n\n") == 3


def test_a_port_taken_is_told_with_the_next_step():
    with (
        bound_http_socket(HttpConfig(port=0)) as bound,
        pytest.raises(UserError, match="port 0 takes any free one"),
        bound_http_socket(HttpConfig(port=bound.getsockname()[1])),
    ):
        pass


def test_a_host_that_is_not_this_machines_is_told():
    with (
        pytest.raises(UserError, match=r"192\.0\.2\.1"),
        bound_http_socket(HttpConfig(host="192.0.2.1", port=0, api_key="k")),
    ):
        pass


def test_answers_decode_as_what_they_are():
    with pytest.raises(UserError):
        parse_chat_request(msgspec.json.encode({"model": "m"}))
