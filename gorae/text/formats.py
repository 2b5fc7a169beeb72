"""How DeepSeek's models write a conversation: the control strings of a turn, of thinking, of tool calls and results.

`ChatFormat` is what writing (`conversation.py`) and reading (`parse.py`) share. `V3`, `R1` and `V3_1` are DeepSeek's,
`GORAE` is ours, `PLAIN` has nothing to read but text. Sources: the chat templates published with DeepSeek-V3-0324,
DeepSeek-R1 and DeepSeek-V3.1, and V3.1's model card for its list of tools.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gorae.text.messages import END_THINK, THINK, Mode, Part, Tool, ToolCall

CALLS_BEGIN = "<｜tool▁calls▁begin｜>"
CALLS_END = "<｜tool▁calls▁end｜>"
CALL_BEGIN = "<｜tool▁call▁begin｜>"
CALL_END = "<｜tool▁call▁end｜>"
TOOL_SEP = "<｜tool▁sep｜>"
OUTPUTS_BEGIN = "<｜tool▁outputs▁begin｜>"
OUTPUTS_END = "<｜tool▁outputs▁end｜>"
OUTPUT_BEGIN = "<｜tool▁output▁begin｜>"
OUTPUT_END = "<｜tool▁output▁end｜>"
TOOL_TOKENS = (
    CALLS_BEGIN,
    CALLS_END,
    CALL_BEGIN,
    CALL_END,
    TOOL_SEP,
    OUTPUTS_BEGIN,
    OUTPUTS_END,
    OUTPUT_BEGIN,
    OUTPUT_END,
)


@dataclass(frozen=True)
class ToolFormat:
    """How calls and results are written. A call is CALL_BEGIN, opening, name, arguments between theirs, CALL_END."""

    call_opening: str
    arguments_opening: str
    arguments_closing: str
    separator: str  # between two calls, and between two results
    outputs_begin: str
    outputs_end: str
    instruction: str  # what the list of tools ends with

    def write_calls(self, calls: Sequence[ToolCall]) -> list[Part]:
        """Return the calls as parts: ours, and what the model chose (name and arguments)."""
        parts = [(CALLS_BEGIN, True)]
        for place, call in enumerate(calls):
            parts += [
                ((self.separator if place else "") + CALL_BEGIN + self.call_opening, True),
                (call.name, False),
                (self.arguments_opening, True),
                (call.arguments, False),
                (self.arguments_closing + CALL_END, True),
            ]
        return [*parts, (CALLS_END, True)]

    def write_results(self, results: Sequence[str]) -> list[Part]:
        """Return the results of a reply's calls, in their order, as parts; the model goes on right behind them."""
        parts: list[Part] = []
        for place, result in enumerate(results):
            before = self.separator if place else self.outputs_begin
            parts += [(before + OUTPUT_BEGIN, True), (result, False), (OUTPUT_END, True)]
        return [*parts, (self.outputs_end, True)]

    def write_tools(self, tools: Sequence[Tool]) -> list[Part]:
        """Return what the system's text ends with where tools may be called, in parts."""
        listed = "".join(
            f"### {tool.name}\nDescription: {tool.description}\n\n"
            f"Parameters: {json.dumps(tool.parameters, ensure_ascii=False)}\n\n"
            for tool in tools
        )
        heading = "\n\n## Tools\nYou have access to the following tools:\n\n"
        return [(heading, True), (listed, False), (self.instruction, True)]


@dataclass(frozen=True)
class ChatFormat:
    """One way to write a conversation.

    `thinks` says who decides: the model, the caller (who, without a word, gets none), always or never.
    """

    name: str
    thinks: Literal["model", "caller", "always", "never"]
    thinking_opening: str = ""
    thinking_closing: str = ""
    direct_opening: str = ""  # what a reply without thinking begins with
    tools: ToolFormat | None = None

    def opening(self, mode: Mode) -> str:
        """What the prompt already holds of a reply in `mode`."""
        return {"free": "", "think": self.thinking_opening, "direct": self.direct_opening}[mode]

    def mode_of(self, prompt: str) -> Mode:
        """The mode in which the reply to a prompt that ends like this is to be read."""
        if self.thinks == "never":
            return "direct"
        if prompt.endswith(self.thinking_opening):
            return "think"
        if self.direct_opening and prompt.endswith(self.direct_opening):
            return "direct"
        return "free"


_V3_TOOLS = ToolFormat(
    call_opening=f"function{TOOL_SEP}",
    arguments_opening="\n```json\n",
    arguments_closing="\n```",
    separator="\n",
    outputs_begin=OUTPUTS_BEGIN,
    outputs_end=OUTPUTS_END,
    # V3 and R1 publish no wording of their own; this one is ours.
    instruction=(
        "To call a tool, write its name and its arguments, a JSON object that fits its parameters, like this:\n"
        f"{CALLS_BEGIN}{CALL_BEGIN}function{TOOL_SEP}NAME\n```json\nARGUMENTS\n```{CALL_END}{CALLS_END}\n"
        "Several calls stand between the same two outer marks, one after the other on a new line."
    ),
)
_V3_1_TOOLS = ToolFormat(
    call_opening="",
    arguments_opening=TOOL_SEP,
    arguments_closing="",
    separator="",
    outputs_begin="",
    outputs_end="",
    # Part of the format: the wording the model was trained with, from its model card.
    instruction=(
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{CALLS_BEGIN}{CALL_BEGIN}tool_call_name{TOOL_SEP}tool_call_arguments{CALL_END}"
        f"{{additional_tool_calls}}{CALLS_END}\n\n"
        "Where:\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        "- For multiple tool calls, chain them directly without separators or spaces"
    ),
)

GORAE = ChatFormat(
    "gorae",
    thinks="model",
    thinking_opening=f"{THINK}\n",
    thinking_closing=f"\n{END_THINK}\n\n",
    direct_opening=END_THINK,
)
V3 = ChatFormat("deepseek-v3", thinks="never", tools=_V3_TOOLS)
R1 = ChatFormat(
    "deepseek-r1",
    thinks="always",
    thinking_opening=f"{THINK}\n",
    thinking_closing=f"\n{END_THINK}\n\n",
    tools=_V3_TOOLS,
)
V3_1 = ChatFormat(
    "deepseek-v3.1",
    thinks="caller",
    thinking_opening=THINK,
    thinking_closing=END_THINK,
    direct_opening=END_THINK,
    tools=_V3_1_TOOLS,
)
PLAIN = ChatFormat("plain", thinks="never")
FORMATS = {chat_format.name: chat_format for chat_format in (GORAE, V3, R1, V3_1, PLAIN)}
