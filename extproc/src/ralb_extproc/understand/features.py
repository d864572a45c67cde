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
TASK_LINE: Final = 400
"""Longest first or last line of a long text that is taken for the whole instruction."""
TASK_HEAD: Final = 900
TASK_TAIL: Final = 600
SHAPE_HEAD: Final = 2_000
"""Characters at the head, and ``SHAPE_TAIL`` at the tail, over which numbers, symbols, code and lists are counted."""
SHAPE_TAIL: Final = 1_000
SYSTEM_WHOLE: Final = 1_200
"""System prompts up to this many characters are taken as stating a task; longer ones describe an assistant."""
OPENING: Final = 12
"""Words at the start of the task in which the verb that names it is expected."""
FOLLOW_UP: Final = 60
"""Characters up to which a user's turn is read together with the one before it."""
INSTRUCTION: Final = 14
"""Most words taken as the instruction where the rest is the material to work on."""

# Everything that parts words becomes a space; hyphens stay, for "fault-tolerant" is one word.
_PARTING: Final = str.maketrans(
    {
        mark: " "
        for mark in "0123456789_!\"#$%&'()*+,./:;<=>?@[\\]^`{|}~\u00a1\u00ab\u00bb\u00bf\u2019"
        "\u201c\u201d\u2026\u3001\u3002\uff0c\uff1a\uff1f"
    }
)
# What often stands between an instruction and its material.
_BORDER: Final = re.compile(r"(?<=\w{3})(?::\s|\n)")
# Room for an instruction of ``INSTRUCTION`` words; looking for its border any further would cost more than all the rest.
_STATED: Final = 256
_DIGITS: Final = bytes(48 if 48 <= byte <= 57 else 32 for byte in range(256))
_SYMBOLS: Final = re.compile(r"[√∑∏∫∂≤≥≠±\u00d7÷∈∀∃⇒∞π]")
_CODE_STARTS: Final = (
    "def ", "class ", "import ", "from ", "#include", "public ", "private ", "func ", "fn ", "const ", "let ", "var ",
    "return ", "SELECT ", "INSERT ", "UPDATE ", "Traceback ", 'File "', "at ", "$ ", "@", "//",
)  # fmt: skip
_CODE_ENDS: Final = (";", "{", "}", "):", ");")
_LIST_STARTS: Final = ("- ", "* ", "• ")
_TRANSCRIPT_STARTS: Final = ("Observation:", "Action:", "Tool call:", "Tool result:")
_MAX_LINES: Final = 200
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
        words: length of what states the task, in words (characters / 2 in scripts without spaces); see ``_instruction``.
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
# Tasks whose object comes along in the text.
_ON_MATERIAL: Final = frozenset({"extract", "classify", "transform", "compress"})
_TASKS: Final = frozenset(
    {
        "greeting", "extract", "classify", "transform", "compress", "safety", "code", "debug", "maths", "proof", "plan",
        "design", "critique", "creative", "explain",
    }
)  # fmt: skip


_PUNCTUATED: Final = tuple(entry for entry in PHRASES if not entry[0].replace(" ", "").isalpha())
_BY_FIRST: Final[dict[str, list[tuple[str, str]]]] = {}
for _entry in PHRASES:
    if _entry not in _PUNCTUATED:
        _BY_FIRST.setdefault(_entry[0].split()[0], []).append(_entry)


def observe(request: Request) -> Features:
    """Look at a request; time is bounded whatever its length (apart from one step per turn)."""
    text, before, system = "", "", ""
    tool_turns = user_turns = 0
    for turn in request.turns:
        role = turn.role
        if role == "user":
            before, text = text, turn.text
            user_turns += 1
        elif role == "tool" or turn.tool_calls:
            tool_turns += 1
        elif role in ("system", "developer"):
            system = turn.text
    if before and len(text) <= FOLLOW_UP:
        text = _follow_up(before, text)
    shape = _ends(text, SHAPE_HEAD, SHAPE_TAIL)
    task = (text if len(text) <= TASK_WHOLE else _instruction(text)).lower()
    words = task.translate(_PARTING).split()
    spaceless = 0 if task.isascii() else len(_SPACELESS.findall(task))
    opening = next((name for name in map(FAMILY.get, words[:OPENING]) if name in _TASKS), None) or ""
    if opening in _ON_MATERIAL and len(words) > INSTRUCTION + OPENING:
        # What follows is the material, whose words say nothing about the task.
        stated = _BORDER.split(task[:_STATED], maxsplit=1)[0].translate(_PARTING).split()[:INSTRUCTION]
        families = _families(" ".join(stated), stated, spaceless > 0)
    else:
        families = _families(task, words, spaceless > 0)
    seen = len(words) + spaceless // 2
    code_lines, list_items, transcript = _lines(shape) if "\n" in shape else (0, 0, 0)
    return Features(
        tools=0 if request.tool_choice == "none" else len(request.tools),
        forced=request.tool_choice in ("required", "named") and bool(request.tools),
        tool_turns=tool_turns + transcript,
        last_is_tool=bool(request.turns) and _is_tool(request.turns[-1]),
        user_turns=user_turns,
        structured=request.structured,
        attachments=request.images + request.audio + request.files,
        input_tokens=request.input_tokens,
        max_output=request.max_output,
        effort=request.reasoning_effort,
        words=seen,
        families=families,
        opening=opening,
        system=_system(system),
        questions=shape.count("?") + (0 if shape.isascii() else shape.count("\uff1f") + shape.count("؟")),
        numbers=len(shape.encode("utf-8", "surrogatepass").translate(_DIGITS).split()),
        symbols=shape.count("=")
        + shape.count("^")
        + shape.count("\\")
        + (0 if shape.isascii() else len(_SYMBOLS.findall(shape))),
        code_blocks=(shape.count("```") + 1) // 2,
        code_lines=code_lines,
        list_items=list_items,
    )


def _follow_up(before: str, text: str) -> str:
    """What a short last turn is about: "yes, go on" continues the turn before it, "thanks!" does not."""
    if any(FAMILY.get(word) == "greeting" for word in text.lower().translate(_PARTING).split()[:2]):
        return text
    return f"{before[-TASK_WHOLE:]}\n{text}"


def _instruction(text: str) -> str:
    """What a long text asks: its first or last line where that is short, for the rest is material; else its two ends."""
    text = text.strip()
    first, first_break, _ = text[: TASK_LINE + 1].partition("\n")
    _, last_break, last = text[-TASK_LINE - 1 :].rpartition("\n")
    lines = [line for line, is_line in ((first, first_break), (last, last_break)) if is_line]
    return "\n".join(lines) if lines else _ends(text, TASK_HEAD, TASK_TAIL)


def _ends(text: str, head: int, tail: int) -> str:
    return text if len(text) <= head + tail else f"{text[:head]}\n{text[-tail:]}"


def _lines(shape: str) -> tuple[int, int, int]:
    """How many lines look like code, like an item of a list, and like a step in a transcript of an agent."""
    code = items = steps = 0
    for line in shape.split("\n", _MAX_LINES)[:_MAX_LINES]:
        line = line.strip()
        if not line:
            continue
        if line.startswith(_LIST_STARTS) or (
            line[0].isdecimal() and line.lstrip("0123456789").startswith((". ", ") "))
        ):
            items += 1
        elif line.startswith(_TRANSCRIPT_STARTS):
            steps += 1
        elif line.endswith(_CODE_ENDS) or line.startswith(_CODE_STARTS):
            code += 1
    return code, items, steps


def _families(task: str, words: Sequence[str], spaceless: bool) -> Counter[str]:
    found: Counter[str] = Counter(filter(None, map(FAMILY.get, words)))
    for phrase, family in PHRASES if spaceless else _likely(words):
        if phrase in task:
            found[family] += 1
    if spaceless:
        for stem, family in STEMS:
            if stem in task:
                found[family] += 1
    return found


def _likely(words: Sequence[str]) -> list[tuple[str, str]]:
    """Phrases that can occur at all, by their first word: looking for every one would cost more than all the words."""
    likely = list(_PUNCTUATED)
    for first in _BY_FIRST.keys() & set(words):
        likely += _BY_FIRST[first]
    return likely


def _system(text: str) -> Counter[str]:
    if not text or len(text) > SYSTEM_WHOLE:
        return Counter()
    task = text.lower()
    return _families(task, task.translate(_PARTING).split(), not task.isascii())


def _is_tool(turn: Turn) -> bool:
    return turn.role == "tool"
