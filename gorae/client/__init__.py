"""One client for any OpenAI-compatible address: a conversation in, a reply out, whole or as it streams."""

from gorae.client.chat import ChatClient, ClientError
from gorae.client.reply import Delta, Reply, TokenLogprob, ToolCall, ToolCallDelta, whole_reply

__all__ = [
    "ChatClient",
    "ClientError",
    "Delta",
    "Reply",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "whole_reply",
]
