"""What the API families have in common while a body is read.

A draft collects turns and counts; the typed content parts, of which all families build messages, are read here.

Part types are told apart by name over all families together: ``text``, ``input_text`` and ``output_text`` mean the same
wherever they occur. Unknown part types are passed over: the model server knows whether it takes them.
"""

from collections.abc import Mapping
from typing import Any

from ralb_extproc.request import fields, tokens
from ralb_extproc.types import Turn

_TEXT = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "summary_text", "reasoning_text"})
_IMAGE = frozenset({"image_url", "input_image", "image", "video_url", "input_video"})
_AUDIO = frozenset({"input_audio", "audio_url", "audio"})
_FILE = frozenset({"file", "input_file", "document"})
# Where a text part keeps its text when not in "text".
_TEXT_FIELD = {"refusal": "refusal", "thinking": "thinking"}


class Draft:
    """The request as far as it has been read; fields as in ``types.Request``."""

    __slots__ = (
        "attachment_tokens",
        "audio",
        "choices",
        "effort",
        "files",
        "hidden",
        "images",
        "known_tokens",
        "longest_prompt",
        "max_output",
        "structured",
        "tool_choice",
        "tool_tokens",
        "tools",
        "turns",
    )

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.tools: tuple[str, ...] = ()
        self.tool_choice = ""
        self.tool_tokens = 0
        self.structured = False
        self.images = self.audio = self.files = 0
        self.attachment_tokens = 0
        self.max_output = 0
        self.effort = ""
        self.choices = 1
        self.hidden: list[str] = []  # text that costs tokens but is no turn's text, such as tool call arguments
        self.known_tokens = -1  # set where the tokens are counted by the family itself
        self.longest_prompt = 0

    def content(self, value: Any, at: str) -> str:
        """Text of a message's content: a string, null, or a list of typed parts; counts the attachments among them."""
        if type(value) is str:
            return value
        if value is None:
            return ""
        if type(value) is not list:
            raise fields.invalid(at, f"must be a string, a list of parts or null, not {fields.kind(value)}")
        texts: list[str] = []
        for index, part in enumerate(value):
            self.part(part, at, index, texts)
        return "\n".join(texts)

    def part(self, part: Any, at: str, index: int, texts: list[str]) -> None:
        """Read one typed part: its text goes to ``texts``, an attachment is counted."""
        if type(part) is not dict:
            raise fields.invalid(f"{at}[{index}]", f"must be an object with a type, not {fields.kind(part)}")
        name = part.get("type")
        if type(name) is not str or not name:
            raise fields.invalid(f"{at}[{index}].type", f'must be a string such as "text", not {fields.kind(name)}')
        if name in _TEXT:
            texts.append(_text_of(part, name, at, index))
            return
        if name in _IMAGE:
            self.images += 1
            self.attachment_tokens += tokens.IMAGE_TOKENS.get(_detail(part), tokens.IMAGE_TOKENS["auto"])
        elif name in _AUDIO:
            self.audio += 1
            self.attachment_tokens += tokens.AUDIO_TOKENS
        elif name in _FILE:
            self.files += 1
            source = part.get("source")
            if type(source) is dict and source.get("type") == "text" and type(source.get("data")) is str:
                texts.append(source["data"])
            else:
                self.attachment_tokens += tokens.FILE_TOKENS

    def input_tokens(self) -> int:
        """The whole prompt in tokens, by estimate: text, chat template, tools, attachments."""
        if self.known_tokens >= 0:
            return self.known_tokens
        text = "\n".join([turn.text for turn in self.turns] + self.hidden)
        framing = tokens.MESSAGE_OVERHEAD * len(self.turns) + tokens.REPLY_OVERHEAD
        return tokens.estimate(text) + framing + self.tool_tokens + self.attachment_tokens


def _text_of(part: Mapping[str, Any], name: str, at: str, index: int) -> str:
    key = _TEXT_FIELD.get(name, "text")
    text = part.get(key)
    if type(text) is not str:
        raise fields.invalid(f"{at}[{index}].{key}", f"must be a string, not {fields.kind(text)}")
    return text


def _detail(part: Mapping[str, Any]) -> str:
    image = part.get("image_url")
    detail = image.get("detail") if type(image) is dict else part.get("detail")
    return detail if type(detail) is str else "auto"
