"""What can be seen in a request at a glance: its structure first, then a few counts over the text that states the task.

The task is stated in the last user turn, mostly at its beginning or its end; a document or a log in between is material. So
words are counted over a short text whole, and over head and tail of a long one, which also bounds the cost. May not enter:
any judgement of what a count means (that is ``score``).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ralb_extproc.types import Request, Turn
from ralb_extproc.understand.words import FAMILY, PHRASES, STEMS

TASK_WHOLE: Final = 1_500
"""Characters up to which a text is read whole for words; of longer ones ``TASK_HEAD`` and ``TASK_TAIL`` are."""
TASK_HEAD: Final = 900
TASK_TAIL: Final = 600
SHAPE_HEAD: Final = 2_000
"""Characters at the head, and ``SHAPE_TAIL`` at the tail, over which numbers, symbols, code and lists are counted."""
SHAPE_TAIL: Final = 1_000
SYSTEM_WHOLE: Final = 1_200
"""System prompts up to this many characters are taken as stating a task; longer ones describe an assistant."""
OPENING: Final = 12
"""Words at the start of the task in which the verb that names it is expected."""

_WORD: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NUMBER: Final = re.compile(r"\d+")
_SYMBOL: Final = re.compile(r"[=^√∑∏∫∂≤≥≠±\u00d7÷∈∀∃⇒∞π]|\\[a-zA-Z]{2,}")
_CODE_LINE: Final = re.compile(
    r"^[ \t]*(?:def |class |import |from \w+ import|#include|public |private |func |fn |const |let |var |return\b"
    r"|SELECT |INSERT |UPDATE |Traceback |File \"|at [\w.$]+\(|\$ )|[;{}][ \t]*$",
    re.MULTILINE,
)
_LIST_ITEM: Final = re.compile(r"^[ \t]*(?:[-*•] |\d{1,2}[.)] )", re.MULTILINE)
_TRANSCRIPT: Final = re.compile(r"^(?:Observation|Action|Tool call|Tool result)\b", re.MULTILINE)
# Scripts written without spaces between words: a word is about two characters.
_SPACELESS: Final = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


@dataclass(frozen=True, slots=True)
class Features:
    """A request in numbers.

    Attributes:
        tools: how many tools are offered and may be used.
        forced: the client demands a tool call.
        tool_turns: tool results, and assistant turns that call tools, in the conversation (or in a pasted transcript).
        last_is_tool: the conversation ends with a tool result.
        user_turns: turns of the user.
        structured: a JSON answer is demanded.
        attachments: images, audio and files.
        input_tokens, max_output: as in the request.
        effort: reasoning effort as said by the client.
        words: length of the last user turn, in words (characters / 2 in scripts without spaces).
        families: word family -> occurrences in the task text.
        opening: the first family named within the first dozen words; "" when none is.
        system: word family -> occurrences in a short system prompt.
        questions, numbers, symbols, code_blocks, code_lines, list_items: occurrences in head and tail of the last user turn.
    """

    tools: int = 0
    forced: bool = False
    tool_turns: int = 0
    last_is_tool: bool = False
    user_turns: int = 0
    structured: bool = False
    attachments: int = 0
    input_tokens: int = 0
    max_output: int = 0
    effort: str = ""
    words: int = 0
    families: Mapping[str, int] = field(default_factory=dict)
    opening: str = ""
    system: Mapping[str, int] = field(default_factory=dict)
    questions: int = 0
    numbers: int = 0
    symbols: int = 0
    code_blocks: int = 0
    code_lines: int = 0
    list_items: int = 0


# Families that may be meant by the very first words of a request; the others modify.
_TASKS: Final = frozenset(
    {
        "greeting", "extract", "classify", "transform", "compress", "safety", "code", "debug", "maths", "proof", "plan",
        "design", "critique", "creative", "explain",
    }
)  # fmt: skip


def observe(request: Request) -> Features:
    """Look at a request; time is bounded whatever its length (apart from one step per turn)."""
    text, system = "", ""
    tool_turns = user_turns = 0
    for turn in request.turns:
        role = turn.role
        if role == "user":
            text = turn.text
            user_turns += 1
        elif role == "tool" or turn.tool_calls:
            tool_turns += 1
        elif role in ("system", "developer"):
            system = turn.text
    shape = _ends(text, SHAPE_HEAD, SHAPE_TAIL)
    task = (text if len(text) <= TASK_WHOLE else _ends(text, TASK_HEAD, TASK_TAIL)).lower()
    words = _WORD.findall(task)
    spaceless = 0 if task.isascii() else len(_SPACELESS.findall(task))
    families = _families(task, words, spaceless > 0)
    seen = len(words) + spaceless // 2
    return Features(
        tools=0 if request.tool_choice == "none" else len(request.tools),
        forced=request.tool_choice in ("required", "named") and bool(request.tools),
        tool_turns=tool_turns + (len(_TRANSCRIPT.findall(shape)) if "\n" in shape else 0),
        last_is_tool=bool(request.turns) and _is_tool(request.turns[-1]),
        user_turns=user_turns,
        structured=request.structured,
        attachments=request.images + request.audio + request.files,
        input_tokens=request.input_tokens,
        max_output=request.max_output,
        effort=request.reasoning_effort,
        words=seen if len(task) >= len(text) else int(seen * len(text) / len(task)),
        families=families,
        opening=next((name for name in map(FAMILY.get, words[:OPENING]) if name in _TASKS), None) or "",
        system=_system(system),
        questions=shape.count("?") + (0 if shape.isascii() else shape.count("\uff1f") + shape.count("؟")),
        numbers=len(_NUMBER.findall(shape)),
        symbols=len(_SYMBOL.findall(shape)),
        code_blocks=(shape.count("```") + 1) // 2,
        code_lines=len(_CODE_LINE.findall(shape)) if "\n" in shape else 0,
        list_items=len(_LIST_ITEM.findall(shape)) if "\n" in shape else 0,
    )


def _ends(text: str, head: int, tail: int) -> str:
    return text if len(text) <= head + tail else f"{text[:head]}\n{text[-tail:]}"


def _families(task: str, words: Sequence[str], spaceless: bool) -> Counter[str]:
    found: Counter[str] = Counter(filter(None, map(FAMILY.get, words)))
    for phrase, family in PHRASES:
        if phrase in task:
            found[family] += 1
    if spaceless:
        for stem, family in STEMS:
            if stem in task:
                found[family] += 1
    return found


def _system(text: str) -> Counter[str]:
    if not text or len(text) > SYSTEM_WHOLE:
        return Counter()
    task = text.lower()
    return _families(task, _WORD.findall(task), not task.isascii())


def _is_tool(turn: Turn) -> bool:
    return turn.role == "tool"
