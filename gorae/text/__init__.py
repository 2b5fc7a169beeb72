"""Text in, token ids out, and back: the tokenizer, the chat template and the reading of replies.

Nouns: `Message`, `Tool`, `ToolCall`, `ChatFormat`, `Tokenizer`, `StreamDecoder`, `Reply`.
Knows no model, no tensor and no request.
"""

from gorae.text.conversation import read_conversation, write_conversation, write_prompt
from gorae.text.formats import FORMATS, GORAE, PLAIN, R1, TOOL_TOKENS, V3, V3_1, ChatFormat, ToolFormat
from gorae.text.messages import (
    ASSISTANT,
    BOS,
    CONTROL_TOKENS,
    END_THINK,
    EOS,
    PAD,
    THINK,
    USER,
    Message,
    Mode,
    Role,
    Tool,
    ToolCall,
    check_conversation,
)
from gorae.text.parse import Delta, Reply, ReplyParser, ToolCallDelta, parse_after_results, parse_reply, possible_start
from gorae.text.scripts import SCRIPTS, language_of, share_of_language
from gorae.text.template import CHAT_TEMPLATE
from gorae.text.tokenizer import Prompt, SpecialTokens, StreamDecoder, Tokenizer

__all__ = [
    "ASSISTANT",
    "BOS",
    "CHAT_TEMPLATE",
    "CONTROL_TOKENS",
    "END_THINK",
    "EOS",
    "FORMATS",
    "GORAE",
    "PAD",
    "PLAIN",
    "R1",
    "SCRIPTS",
    "THINK",
    "TOOL_TOKENS",
    "USER",
    "V3",
    "V3_1",
    "ChatFormat",
    "Delta",
    "Message",
    "Mode",
    "Prompt",
    "Reply",
    "ReplyParser",
    "Role",
    "SpecialTokens",
    "StreamDecoder",
    "Tokenizer",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolFormat",
    "check_conversation",
    "language_of",
    "parse_after_results",
    "parse_reply",
    "possible_start",
    "read_conversation",
    "share_of_language",
    "write_conversation",
    "write_prompt",
]
