"""What may be asked and how it is answered, in OpenAI's chat-completions format.

Nouns: ChatRequest (a checked request) and ApiError (a refusal in OpenAI's shape). Fields we cannot honour are refused
by name where they would change the reply, accepted where they would not. Knows no connection and no running engine.
"""

import difflib
import json
import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from gorae.engine import Constraint, SamplingParams
from gorae.text import Message, Mode, Tool, ToolCall


class ApiError(Exception):
    """A refusal: `message` says what was given, which rule it broke and what to do; `param` names the field."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        kind = {429: "rate_limit_error", 403: "permission_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    arguments: str


class Call(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart]
    tool_calls: list[Call] = []
    tool_call_id: str | None = None

    def as_message(self) -> Message:
        """The turn as the template takes it; a developer is today's name for the system."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls)
        role = "system" if self.role == "developer" else self.role
        return Message(role, text, tool_calls=calls, tool_call_id=self.tool_call_id)


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # no grammar binds the reply yet, so only false is honoured


class OfferedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function

    def as_tool(self) -> Tool:
        return Tool(self.function.name, self.function.description or "", self.function.parameters or {})


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; accepted, not added


class Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled"]


class JsonSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None  # accepted either way: what is asked for is always held to


class ResponseFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


PositiveInt = Annotated[int, msgspec.Meta(ge=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
StopString = Annotated[str, msgspec.Meta(min_length=1)]


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """What requests of every kind may say of how tokens are drawn, ended and sent."""

    model: str
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 0  # this and the next not OpenAI's, named as other servers name them
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[int, Annotated[float, msgspec.Meta(ge=-100, le=100)]] = {}
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], msgspec.Meta(max_length=16)] = []

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def drawn(self) -> dict[str, Any]:
        """The engine's parameters of the same names. Stop strings are ours, as in a chat they end the answer alone."""
        names = ("temperature", "top_k", "top_p", "min_p", "presence_penalty", "frequency_penalty")
        return {name: getattr(self, name) for name in (*names, "logit_bias", "seed")}


class ChatRequest(Drawn, frozen=True, kw_only=True):
    """A chat-completions request with every field checked; a field that is null counts as absent."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    thinking: Thinking | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None  # OpenAI's newer name for max_tokens
    logprobs: bool = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0
    response_format: ResponseFormat = ResponseFormat("text")
    tools: Annotated[list[OfferedTool], msgspec.Meta(max_length=128)] = []
    tool_choice: Literal["none", "auto"] = "auto"

    @property
    def mode(self) -> Mode:
        """Who decides whether the reply thinks: the caller, or ("free") the model."""
        if self.thinking is None:
            return "free"
        return "think" if self.thinking.type == "enabled" else "direct"

    @property
    def offered_tools(self) -> list[Tool]:
        """What the model may call in its reply."""
        return [] if self.tool_choice == "none" else [tool.as_tool() for tool in self.tools]

    def sampling_params(self, *, room: int, mode: Mode = "direct") -> SamplingParams:
        """What the engine is asked for, `room` tokens at most, behind a prompt that ends in `mode`."""
        return SamplingParams(
            max_tokens=min(room, self.max_tokens or self.max_completion_tokens or room),
            logprobs=self.top_logprobs if self.logprobs else None,
            constraint=self.constraint(mode),
            **self.drawn(),
        )

    def constraint(self, mode: Mode) -> Constraint | None:
        """The form of the answer, where one is asked for."""
        if self.response_format.type == "text":
            return None
        asked = self.response_format.json_schema
        return Constraint.json(asked.schema if asked else None, mode=mode)


EXAMPLES = {
    "model": '"NAME", as GET /v1/models lists it',
    "messages": '[{"role": "user", "content": "1 + 1?"}]',
    "stream": "true",
    "stream_options": '{"include_usage": true}',
    "thinking": '{"type": "enabled"} or {"type": "disabled"}',
    "max_tokens": "256",
    "max_completion_tokens": "256",
    "temperature": "0.6",
    "top_p": "0.95",
    "top_k": "40",
    "min_p": "0.05",
    "presence_penalty": "0.5",
    "frequency_penalty": "0.5",
    "logit_bias": '{"42": -100}',
    "seed": "1",
    "logprobs": "true",
    "top_logprobs": "5",
    "stop": '["\\n\\n"]',
    "response_format": '{"type": "json_object"}',
    "tools": '[{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]',
    "tool_choice": '"auto" or "none"',
}

CHOICES = {
    "messages.role": "must be system, developer, user, assistant or tool",
    "tool_choice": "must be auto or none, as this server cannot force a call",
    "response_format.type": "must be text, json_object or json_schema",
    "tools.type": "must be function, the only kind of tool this server offers",
    "messages.content.type": "must be text, the only kind of content this model reads",
    "thinking.type": "must be enabled or disabled",
}

# Known fields that do not touch the reply, whatever their value.
HARMLESS = {
    *("user", "user_id", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls", "prediction"),
}

# Known fields that would change the reply, and the values at which they do not.
NEUTRAL: dict[str, list[Any]] = {
    "n": [1],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "audio": [],
    "web_search_options": [],
    "reasoning_effort": [],
}
NEUTRAL_IN_MESSAGE: dict[str, list[Any]] = {
    "name": [""],
    "function_call": [],
    "refusal": [],
    "audio": [],
    "annotations": [[]],
    "prefix": [False],
}
HARMLESS_IN_MESSAGE = {"reasoning_content"}  # the template drops the thinking of earlier turns


def read_request(body: bytes) -> ChatRequest:
    """Check a request's body; raises ApiError (400) for anything that is not a request we can honour in full."""
    request = read_fields(body, ChatRequest, neutral=NEUTRAL, examples={})
    for index, tool in enumerate(request.tools):
        if tool.function.strict:
            param = f"tools[{index}].function.strict"
            raise ApiError(400, _unsupported(param, True, [False]), param=param, code="unsupported_field")
    _check_response_format(request)
    if request.top_logprobs and not request.logprobs:
        raise ApiError(
            400,
            f'top_logprobs={request.top_logprobs} is asked for without logprobs; send "logprobs": true with it',
            param="top_logprobs",
        )
    if None not in (request.max_tokens, request.max_completion_tokens) and (
        request.max_tokens != request.max_completion_tokens
    ):
        raise ApiError(
            400,
            f"max_tokens={request.max_tokens} and max_completion_tokens={request.max_completion_tokens} are two names "
            "for one limit and differ; send one of them",
            param="max_completion_tokens",
        )
    return request


RequestT = TypeVar("RequestT", bound=Drawn)


def read_fields(
    body: bytes, kind: type[RequestT], *, neutral: dict[str, list[Any]], examples: dict[str, str]
) -> RequestT:
    """The body as a request of a kind; its own `neutral` values, and its own examples beside the shared ones."""
    examples = EXAMPLES | examples
    known = {field.name for field in msgspec.structs.fields(kind)}
    subject = "messages" if "messages" in known else "prompt"
    fields = _read_object(body, f'send an object such as {{"model": "NAME", "{subject}": {examples[subject]}}}')
    fields = _without_neutral(fields, known=known, neutral=neutral, harmless=HARMLESS, place="")
    if isinstance(fields.get("messages"), list):
        fields["messages"] = [_read_message(turn, index) for index, turn in enumerate(fields["messages"])]
    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise _field_error(str(error), fields, examples) from None


def _check_response_format(request: ChatRequest) -> None:
    wanted = request.response_format
    if (wanted.type == "json_schema") != (wanted.json_schema is not None):
        verb = "needs" if wanted.json_schema is None else "takes no"
        raise ApiError(
            400,
            f"response_format of type {wanted.type} {verb} json_schema; "
            'send {"type": "json_schema", "json_schema": {"name": "NAME", "schema": {...}}} or {"type": "json_object"}',
            param="response_format.json_schema",
        )
    if wanted.type != "text" and request.offered_tools:
        raise ApiError(
            400,
            f"response_format of type {wanted.type} leaves no way to call tools; leave one of them out, or send "
            '"tool_choice": "none"',
            param="response_format",
            code="unsupported_field",
        )


def _read_object(body: bytes, example: str) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}; {example}", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body is {_shown(fields)}, not a JSON object; {example}", code="invalid_json")
    return fields


def _read_message(turn: Any, index: int) -> Any:
    if not isinstance(turn, dict):
        return turn
    if turn.get("role") == "assistant" and turn.get("tool_calls") and turn.get("content") is None:
        turn = turn | {"content": ""}
    known = {field.name for field in msgspec.structs.fields(ChatMessage)}
    return _without_neutral(
        turn, known=known, neutral=NEUTRAL_IN_MESSAGE, harmless=HARMLESS_IN_MESSAGE, place=f"messages[{index}]."
    )


def _without_neutral(
    fields: dict[str, Any], *, known: set[str], neutral: dict[str, list[Any]], harmless: set[str], place: str
) -> dict[str, Any]:
    """Return the fields we honour; raises ApiError for one that is unknown or would change the reply."""
    for name, value in fields.items():
        if name in known or name in harmless or value is None:
            continue
        if name not in neutral:
            nearest = difflib.get_close_matches(name, [*known, *neutral, *harmless], n=1)
            remedy = f"did you mean {nearest[0]}?" if nearest else "leave it out"
            raise ApiError(
                400, f"{place}{name} is not a field of this API; {remedy}", param=place + name, code="unknown_field"
            )
        if value not in neutral[name]:
            raise ApiError(
                400, _unsupported(place + name, value, neutral[name]), param=place + name, code="unsupported_field"
            )
    return {name: value for name, value in fields.items() if name in known and value is not None}


def _unsupported(field: str, value: Any, accepted: list[Any]) -> str:
    remedy = "leave it out" + "".join(f" or send {_shown(choice)}" for choice in accepted)
    if field == "reasoning_effort":
        remedy += f'; to switch thinking on or off, send "thinking": {EXAMPLES["thinking"]}'
    return f"{field}={_shown(value)} would change the reply and this server cannot honour it; {remedy}"


def _field_error(message: str, fields: dict[str, Any], examples: dict[str, str]) -> ApiError:
    """Turn msgspec's "Expected `int`, got `str` - at `$.max_tokens`" into a sentence with the value and an example."""
    rule, _, path = message.replace(" - at `key` in `$", " as a key - at `$").partition(" - at `$")
    missing = re.search(r"missing required field `(\w+)`", rule)
    field = path.rstrip("`").lstrip(".") + (f".{missing[1]}" if missing and path else missing[1] if missing else "")
    top = re.split(r"[.\[]", field)[0]
    given = "is missing" if missing else f"is {_shown(_value_at(fields, field))}"
    rule = CHOICES.get(re.sub(r"\[\d+\]", "", field), rule) if rule.startswith("Invalid enum") else rule
    remedy = f'send for example "{top}": {examples[top]}'
    return ApiError(400, f"{field} {given}: {rule[0].lower()}{rule[1:]}; {remedy}", param=field)


def _value_at(fields: Any, path: str) -> Any:
    for key in re.findall(r"\w+", path):
        fields = fields[int(key)] if isinstance(fields, list) else fields[key]
    return fields


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
